//! Two machines on one: network namespaces with addresses of their own on a bridge, and a PostgreSQL that listens there.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use spoken::postgres::{Server, ServerOptions};
use tempfile::TempDir;

use crate::cli::until;
use crate::postgres::tools_dir;

fn ip(arguments: &[&str]) -> bool {
    Command::new("ip")
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A bridge and the machines on it. Everything goes when it is dropped.
pub struct Network {
    name: String,
    net: String,
    machines: Vec<Machine>,
}

/// One machine: a network namespace.
#[derive(Clone)]
pub struct Machine {
    /// Its host name, and the namespace's.
    pub name: String,
    /// The bridge's end of its cable.
    cable: String,
    bridge: String,
}

impl Network {
    /// A bridge with `machines` on it; none where this user or this kernel cannot make one, which is said.
    pub fn make(machines: &[&str]) -> Option<Self> {
        // What was taken down may take the kernel a while: no name comes twice.
        static MADE: AtomicU32 = AtomicU32::new(0);
        let (id, n) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let name = format!("sp{id:x}n{n}");
        let allowed = nix::unistd::geteuid().is_root() && ip(&["netns", "add", &name]);
        if !allowed {
            println!(
                "skipped: network namespaces need root, the program ip (iproute2), and a kernel that lets this user make them"
            );
            return None;
        }
        assert!(ip(&["netns", "del", &name]));
        // One of 62,500 networks of 10/8, so that tests of several checkouts do not meet.
        let net = format!("10.{}.{}", id / 250 % 250 + 1, (id + 101 * n) % 250);
        let mut network = Self { name: name.clone(), net: net.clone(), machines: Vec::new() };
        assert!(ip(&["link", "add", &name, "type", "bridge"]), "no bridge");
        assert!(ip(&["addr", "add", &format!("{net}.1/24"), "dev", &name]), "no address");
        assert!(ip(&["link", "set", &name, "up"]), "the bridge stays down");
        for (n, machine) in machines.iter().enumerate() {
            assert!(network.plug_in(n, machine), "{machine} has no network");
        }
        Some(network)
    }

    fn plug_in(&mut self, n: usize, machine: &str) -> bool {
        let (space, cable) = (format!("{}-{machine}", self.name), format!("{}v{n}", self.name));
        let address = format!("{}.{}/24", self.net, n + 2);
        self.machines.push(Machine { name: space.clone(), cable: cable.clone(), bridge: self.name.clone() });
        ip(&["netns", "add", &space])
            && ip(&["link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &space])
            && ip(&["link", "set", &cable, "master", &self.name, "up"])
            && ip(&["-n", &space, "addr", "add", &address, "dev", "eth0"])
            && ip(&["-n", &space, "link", "set", "eth0", "up"])
            && ip(&["-n", &space, "link", "set", "lo", "up"])
    }

    /// The address of the bridge: this machine, seen from the others.
    pub fn address(&self) -> String {
        format!("{}.1", self.net)
    }

    /// The machine of this name.
    pub fn machine(&self, n: usize) -> Machine {
        self.machines[n].clone()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for machine in &self.machines {
            ip(&["netns", "del", &machine.name]);
        }
        ip(&["link", "del", &self.name]);
    }
}

impl Machine {
    /// `command`, run on this machine.
    pub fn command(&self, command: &Command) -> Command {
        let mut here = Command::new("ip");
        here.args(["netns", "exec", &self.name, "unshare", "--uts", "sh", "-c"])
            .args([&format!("echo {} > /proc/sys/kernel/hostname && exec \"$@\"", self.name), "sh"])
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear()
            .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .stdin(Stdio::null());
        if let Some(directory) = command.get_current_dir() {
            here.current_dir(directory);
        }
        here
    }

    /// Pulls the plug: nothing that is sent arrives, and nobody is told.
    pub fn cut_off(&self) {
        assert!(ip(&["link", "set", &self.cable, "nomaster"]), "{} was not cut off", self.name);
    }

    /// Puts it back.
    pub fn plug(&self) {
        assert!(
            ip(&["link", "set", &self.cable, "master", &self.bridge]),
            "{} was not plugged in",
            self.name
        );
    }
}

/// A PostgreSQL of the embedded binaries that listens on an address, with passwords. Only for root, as the network is.
pub struct Postgres {
    url: String,
    child: Child,
    _dir: TempDir,
}

impl Postgres {
    /// Starts it.
    pub async fn start(address: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let options = ServerOptions::new(dir.path(), tools_dir());
        // Makes the cluster with its database and a password, as the program does.
        Server::start(&options).await.unwrap().close().await.unwrap();
        let root = dir.path().join("postgres");
        let password = fs::read_to_string(root.join("password")).unwrap();
        let data = root.join("data");
        fs::OpenOptions::new()
            .append(true)
            .open(data.join("pg_hba.conf"))
            .unwrap()
            .write_all(format!("host all all {address}/24 scram-sha-256\n").as_bytes())
            .unwrap();
        let port = std::net::TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port();
        let owner = fs::metadata(&data).unwrap();
        let binary = tools_dir().join("postgres/bin/postgres").canonicalize().unwrap();
        let child = Command::new("setpriv")
            .args([format!("--reuid={}", owner.uid()), format!("--regid={}", owner.gid())])
            // The tools may lie where only root may look.
            .args(["--clear-groups", "--securebits=+no_setuid_fixup"])
            .args(["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"])
            .arg(binary)
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string(), "-c", &format!("listen_addresses={address}")])
            .args(["-c", "unix_socket_directories=", "-c", "dynamic_shared_memory_type=mmap"])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(fs::File::create(dir.path().join("server.log")).unwrap()))
            .spawn()
            .unwrap();
        until("the server listens", || TcpStream::connect((address, port)).is_ok());
        let url = format!("postgres://postgres:{}@{address}:{port}/spoken", password.trim());
        let postgres = Self { url, child, _dir: dir };
        postgres.ready().await;
        postgres
    }

    async fn ready(&self) {
        use sqlx::Connection;
        let started = std::time::Instant::now();
        loop {
            match sqlx::PgConnection::connect(&self.url).await {
                Ok(connection) => return connection.close().await.unwrap(),
                Err(error) => assert!(started.elapsed().as_secs() < 60, "{error}"),
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// Its address, password included.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
        let _ = self.child.wait();
    }
}
