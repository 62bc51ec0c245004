//! Finding and loading a model: a local directory, or a name that fastembed knows.

use std::{
    env, fs,
    net::{TcpStream, ToSocketAddrs},
    path::{Path, PathBuf},
    time::Duration,
};

use fastembed::{
    EmbeddingModel, InitOptionsUserDefined, Pooling, QuantizationMode, TextEmbedding, TextInitOptions,
    TokenizerFiles, UserDefinedEmbeddingModel,
};
use ort::environment::Environment;
use tracing::info;
use url::Url;

use super::{EmbedError, EmbedOptions, prompts::Prompts};

/// Most tokens of a text that are read; the rest is cut off. What the small models were made for.
pub(super) const MAX_TOKENS: usize = 512;

/// Tokens where the directory states nothing: what sentence-transformers' smallest models were trained with.
const DEFAULT_TOKENS: usize = 256;

/// Files of a local model besides the network itself.
const TOKENIZER_FILES: [&str; 4] =
    ["tokenizer.json", "config.json", "special_tokens_map.json", "tokenizer_config.json"];

/// Where a local model's network may be, best first.
const NETWORK_FILES: [&str; 4] =
    ["model.onnx", "model_quantized.onnx", "onnx/model.onnx", "onnx/model_quantized.onnx"];

/// Names that models have on the hub where fastembed takes them from elsewhere.
const ALIASES: &[(&str, EmbeddingModel)] = &[
    ("sentence-transformers/all-MiniLM-L6-v2", EmbeddingModel::AllMiniLML6V2),
    ("sentence-transformers/all-MiniLM-L12-v2", EmbeddingModel::AllMiniLML12V2),
    ("sentence-transformers/all-mpnet-base-v2", EmbeddingModel::AllMpnetBaseV2),
    ("sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2", EmbeddingModel::ParaphraseMLMiniLML12V2),
    ("sentence-transformers/paraphrase-multilingual-mpnet-base-v2", EmbeddingModel::ParaphraseMLMpnetBaseV2),
    ("BAAI/bge-small-en-v1.5", EmbeddingModel::BGESmallENV15),
    ("BAAI/bge-base-en-v1.5", EmbeddingModel::BGEBaseENV15),
    ("BAAI/bge-large-en-v1.5", EmbeddingModel::BGELargeENV15),
    ("BAAI/bge-small-zh-v1.5", EmbeddingModel::BGESmallZHV15),
    ("BAAI/bge-large-zh-v1.5", EmbeddingModel::BGELargeZHV15),
    ("intfloat/multilingual-e5-large", EmbeddingModel::MultilingualE5Large),
    ("google/embeddinggemma-300m", EmbeddingModel::EmbeddingGemma300M),
];

/// A model ready to embed.
pub(super) struct Model {
    pub network: TextEmbedding,
    pub id: String,
    pub prompts: Prompts,
    /// True where the network scales its numbers by what is in the batch: then a text's vector depends on its
    /// neighbours, and each text is embedded alone.
    pub alone: bool,
}

/// What a setting names.
enum Named<'a> {
    Directory(&'a Path),
    Known(EmbeddingModel),
}

/// Reads the setting.
fn resolve(model: &str) -> Result<Named<'_>, EmbedError> {
    let path = Path::new(model);
    if path.is_dir() {
        Ok(Named::Directory(path))
    } else if path.is_absolute() || model.starts_with(['.', '~']) {
        Err(EmbedError::NoDirectory { path: path.to_owned() })
    } else {
        find(model).map(Named::Known)
    }
}

/// Checks a setting without reading the model.
pub(super) fn check(model: &str) -> Result<(), EmbedError> {
    let Named::Directory(dir) = resolve(model)? else { return Ok(()) };
    network_file(dir)?;
    for name in TOKENIZER_FILES {
        let path = dir.join(name);
        fs::metadata(&path).map_err(|source| EmbedError::File { path, source })?;
    }
    Ok(())
}

/// The name that the model will have, told without loading it.
pub(super) fn id(model: &str) -> Result<String, EmbedError> {
    match resolve(model)? {
        Named::Known(model) => Ok(named_id(&model)),
        Named::Directory(dir) => {
            let path = network_file(dir)?;
            let network = fs::read(&path).map_err(|source| EmbedError::File { path, source })?;
            Ok(directory_id(dir, &network))
        }
    }
}

/// Loads what `options` name.
pub(super) fn load(options: &EmbedOptions, environment: Environment) -> Result<Model, EmbedError> {
    match resolve(&options.model)? {
        Named::Directory(dir) => load_directory(dir, options, environment),
        Named::Known(model) => load_known(&model, options, environment),
    }
}

/// The network in a directory.
fn network_file(dir: &Path) -> Result<PathBuf, EmbedError> {
    NETWORK_FILES
        .iter()
        .map(|name| dir.join(name))
        .find(|p| p.is_file())
        .ok_or_else(|| EmbedError::NoNetwork { path: dir.to_owned(), names: NETWORK_FILES.join(", ") })
}

fn load_directory(dir: &Path, options: &EmbedOptions, environment: Environment) -> Result<Model, EmbedError> {
    let read = |path: PathBuf| fs::read(&path).map_err(|source| EmbedError::File { path, source });
    let network_path = network_file(dir)?;
    let network = read(network_path.clone())?;
    let [tokenizer_file, config_file, special_tokens_map_file, tokenizer_config_file] =
        TOKENIZER_FILES.map(|name| read(dir.join(name)));
    let files = TokenizerFiles {
        tokenizer_file: tokenizer_file?,
        config_file: config_file?,
        special_tokens_map_file: special_tokens_map_file?,
        tokenizer_config_file: tokenizer_config_file?,
    };
    let max_length = max_tokens(dir, &files);
    let id = directory_id(dir, &network);
    let alone = is_dynamic(&network);
    let mut model = UserDefinedEmbeddingModel::new(network, files).with_pooling(pooling(dir));
    // Large networks keep their weights beside them.
    let mut data = network_path.into_os_string();
    data.push("_data");
    let data = PathBuf::from(data);
    if data.is_file()
        && let Some(name) = data.file_name().and_then(|n| n.to_str())
    {
        model = model.with_external_initializer(name.to_owned(), read(data.clone())?);
    }
    let init = InitOptionsUserDefined::new()
        .with_environment(environment)
        .with_max_length(max_length)
        .with_intra_threads(options.threads.max(1))
        .with_session_config(SPINNING.0, SPINNING.1);
    let network = TextEmbedding::try_new_from_user_defined(model, init)
        .map_err(|e| EmbedError::Broken { model: options.model.clone(), why: e.to_string() })?;
    let prompts = Prompts::of_directory(dir).unwrap_or_else(|| Prompts::of(&id));
    Ok(Model { network, id, prompts, alone })
}

/// ONNX Runtime's threads wait in a busy loop by default, on the cores that Whisper needs.
const SPINNING: (&str, &str) = ("session.intra_op.allow_spinning", "0");

fn load_known(
    model: &EmbeddingModel,
    options: &EmbedOptions,
    environment: Environment,
) -> Result<Model, EmbedError> {
    let name = options.model.as_str();
    let unavailable = |why: String| EmbedError::Unavailable { model: name.to_owned(), why };
    let known = TextEmbedding::get_model_info(model).map_err(|e| unavailable(e.to_string()))?;
    let cache = env::var_os("HF_HOME").map_or_else(|| options.cache_dir.clone(), PathBuf::from);
    let cached = hf_hub::Cache::new(cache).repo(hf_hub::Repo::model(known.model_code.clone()));
    if cached.get(&known.model_file).is_none() || cached.get(TOKENIZER_FILES[0]).is_none() {
        hub_answers().map_err(&unavailable)?;
        info!(model = known.model_code, "fetching the embedding model");
    }
    let init = TextInitOptions::new(model.clone())
        .with_environment(environment)
        .with_cache_dir(options.cache_dir.clone())
        .with_show_download_progress(options.show_progress)
        .with_max_length(MAX_TOKENS)
        .with_intra_threads(options.threads.max(1))
        .with_session_config(SPINNING.0, SPINNING.1);
    let network = TextEmbedding::try_new(init).map_err(|e| match e {
        fastembed::Error::Ort(_)
        | fastembed::Error::OrtBuilder(_)
        | fastembed::Error::OrtSession(_)
        | fastembed::Error::TokenizerConfig(_) => {
            EmbedError::Broken { model: name.to_owned(), why: e.to_string() }
        }
        e => unavailable(e.to_string()),
    })?;
    Ok(Model {
        network,
        id: named_id(model),
        prompts: Prompts::of(&known.model_code),
        alone: TextEmbedding::get_quantization_mode(model) == QuantizationMode::Dynamic,
    })
}

/// The model called `name`: its address on the hub, the address of what it was made from, or fastembed's own name.
fn find(name: &str) -> Result<EmbeddingModel, EmbedError> {
    let mut known = TextEmbedding::list_supported_models();
    // Several networks may share an address: the one that is not quantised is meant, unless its own name is given.
    known.sort_by_key(|m| {
        (TextEmbedding::get_quantization_mode(&m.model) != QuantizationMode::None, m.model.to_string())
    });
    if let Some((_, model)) = ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(name)) {
        return Ok(model.clone());
    }
    if let Some(m) = known
        .iter()
        .find(|m| m.model_code.eq_ignore_ascii_case(name) || m.model.to_string().eq_ignore_ascii_case(name))
    {
        return Ok(m.model.clone());
    }
    let wanted = name.to_lowercase();
    let mut names: Vec<String> = known.iter().map(|m| m.model_code.clone()).collect();
    names.extend(ALIASES.iter().map(|(alias, _)| (*alias).to_owned()));
    names.sort();
    names.dedup();
    let likeness = |n: &str| {
        let n = n.to_lowercase();
        let last = |s: &str| s.rsplit('/').next().unwrap_or_default().to_owned();
        strsim::jaro_winkler(&n, &wanted).max(strsim::jaro_winkler(&last(&n), &last(&wanted)))
    };
    names.sort_by(|a, b| likeness(b).total_cmp(&likeness(a)));
    names.truncate(3);
    Err(EmbedError::UnknownModel { name: name.to_owned(), nearest: names.join(", ") })
}

/// A name that stays: the address on the hub, with the file where several networks share the address.
fn named_id(model: &EmbeddingModel) -> String {
    let known = TextEmbedding::list_supported_models();
    let Some(this) = known.iter().find(|m| m.model == *model) else { return model.to_string() };
    let shared = known.iter().filter(|m| m.model_code == this.model_code).count() > 1;
    let quantised = TextEmbedding::get_quantization_mode(model) != QuantizationMode::None
        || this.model_file.contains("_q");
    if shared && quantised {
        let stem = Path::new(&this.model_file).file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        format!("{}:{stem}", this.model_code)
    } else {
        this.model_code.clone()
    }
}

/// A name that stays for a directory: its own name, and eight hex digits of the network's BLAKE3.
fn directory_id(dir: &Path, network: &[u8]) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let name = dir.file_name().map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned());
    let hash = blake3::hash(network).to_hex();
    format!("{name}-{}", &hash[..8])
}

/// Whether the network quantises its activations while it runs: the operators' names stand in the file in clear (ONNX
/// operator `DynamicQuantizeLinear`; `DynamicQuantizeMatMul` is ONNX Runtime's fusion with it).
fn is_dynamic(network: &[u8]) -> bool {
    let has = |name: &[u8]| network.windows(name.len()).any(|w| w == name);
    has(b"DynamicQuantizeLinear") || has(b"DynamicQuantizeMatMul")
}

/// How token vectors become one, from sentence-transformers' `1_Pooling/config.json`; their mean where it is absent.
fn pooling(dir: &Path) -> Pooling {
    let config = fs::read(dir.join("1_Pooling/config.json")).ok();
    let json: Option<serde_json::Value> = config.and_then(|c| serde_json::from_slice(&c).ok());
    match json {
        Some(json) if json["pooling_mode_cls_token"] == true => Pooling::Cls,
        _ => Pooling::Mean,
    }
}

/// How many tokens the model reads: what sentence-transformers' config says, else what the tokenizer and the network
/// allow.
fn max_tokens(dir: &Path, files: &TokenizerFiles) -> usize {
    let number = |json: &[u8], key: &str| -> Option<usize> {
        let json: serde_json::Value = serde_json::from_slice(json).ok()?;
        // "No limit" is written as 1e30.
        json[key].as_f64().filter(|n| (8.0..1e6).contains(n)).map(|n| n as usize)
    };
    let sentence = fs::read(dir.join("sentence_bert_config.json")).ok();
    let stated = sentence.and_then(|s| number(&s, "max_seq_length"));
    // RoBERTa and its children count positions from 2.
    let config: Option<serde_json::Value> = serde_json::from_slice(&files.config_file).ok();
    let from_two = config.is_some_and(|c| c["model_type"].as_str().is_some_and(|t| t.contains("roberta")));
    let positions = number(&files.config_file, "max_position_embeddings")
        .map(|n| if from_two { n.saturating_sub(2) } else { n });
    let tokenizer = number(&files.tokenizer_config_file, "model_max_length");
    let allowed = [stated, positions, tokenizer].into_iter().flatten().min().unwrap_or(DEFAULT_TOKENS);
    allowed.min(MAX_TOKENS)
}

/// Whether the hub can be reached, within seconds: the download itself would wait for minutes to say that it cannot.
fn hub_answers() -> Result<(), String> {
    let proxied = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    if proxied.iter().any(|v| env::var_os(v).is_some_and(|v| !v.is_empty())) {
        return Ok(());
    }
    let endpoint = env::var("HF_ENDPOINT").unwrap_or_else(|_| "https://huggingface.co".to_owned());
    let url = Url::parse(&endpoint).map_err(|e| format!("HF_ENDPOINT: {e}"))?;
    let host = url.host_str().ok_or("HF_ENDPOINT names no host")?.to_owned();
    let port = url.port_or_known_default().unwrap_or(443);
    let addresses =
        (host.as_str(), port).to_socket_addrs().map_err(|e| format!("{host} cannot be resolved: {e}"))?;
    let mut last = format!("{host} has no address");
    for address in addresses.take(4) {
        match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
            Ok(_) => return Ok(()),
            Err(e) => last = format!("{host} cannot be reached: {e}"),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_every_spelling() {
        for (name, model) in [
            ("intfloat/multilingual-e5-small", EmbeddingModel::MultilingualE5Small),
            ("BAAI/bge-small-en-v1.5", EmbeddingModel::BGESmallENV15),
            ("baai/BGE-small-en-v1.5", EmbeddingModel::BGESmallENV15),
            ("Xenova/bge-small-en-v1.5", EmbeddingModel::BGESmallENV15),
            ("BGESmallENV15Q", EmbeddingModel::BGESmallENV15Q),
            ("multilinguale5small", EmbeddingModel::MultilingualE5Small),
            ("nomic-ai/nomic-embed-text-v1.5", EmbeddingModel::NomicEmbedTextV15),
            ("sentence-transformers/all-MiniLM-L6-v2", EmbeddingModel::AllMiniLML6V2),
        ] {
            assert_eq!(find(name).unwrap(), model, "{name}");
        }
    }

    #[test]
    fn an_unknown_name_gets_its_neighbours() {
        let message = find("intfloat/multilingual-e5-smal").unwrap_err().to_string();
        assert!(message.contains("intfloat/multilingual-e5-small"), "{message}");
        let message = find("bge-small").unwrap_err().to_string();
        assert!(message.contains("bge-small-en-v1.5"), "{message}");
        find("").unwrap_err();
    }

    #[test]
    fn every_model_has_an_id_of_its_own() {
        let known = TextEmbedding::list_supported_models();
        let mut ids: Vec<_> = known.iter().map(|m| named_id(&m.model)).collect();
        ids.sort();
        let n = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), n);
        assert_eq!(named_id(&EmbeddingModel::MultilingualE5Small), "intfloat/multilingual-e5-small");
    }

    #[test]
    fn lengths_and_pooling_come_from_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let files = |config: &str, tokenizer: &str| TokenizerFiles {
            tokenizer_file: Vec::new(),
            config_file: config.as_bytes().to_vec(),
            special_tokens_map_file: Vec::new(),
            tokenizer_config_file: tokenizer.as_bytes().to_vec(),
        };
        assert_eq!(max_tokens(dir.path(), &files("{}", r#"{"model_max_length": 1e30}"#)), 256);
        assert_eq!(max_tokens(dir.path(), &files("{}", r#"{"model_max_length": 128}"#)), 128);
        assert_eq!(max_tokens(dir.path(), &files(r#"{"max_position_embeddings": 8192}"#, "{}")), 512);
        let roberta = r#"{"model_type": "xlm-roberta", "max_position_embeddings": 514}"#;
        assert_eq!(max_tokens(dir.path(), &files(roberta, r#"{"model_max_length": 1e30}"#)), 512);
        fs::write(dir.path().join("sentence_bert_config.json"), r#"{"max_seq_length": 64}"#).unwrap();
        assert_eq!(max_tokens(dir.path(), &files("{}", r#"{"model_max_length": 512}"#)), 64);
        assert_eq!(pooling(dir.path()), Pooling::Mean);
        fs::create_dir(dir.path().join("1_Pooling")).unwrap();
        fs::write(dir.path().join("1_Pooling/config.json"), r#"{"pooling_mode_cls_token": true}"#).unwrap();
        assert_eq!(pooling(dir.path()), Pooling::Cls);
    }
}
