//! `spoken search`: what was typed into what is asked, and what was found onto the terminal.

mod print;
mod target;

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use super::library::the_one;
use super::{models, world::World};
use crate::cli::{EXIT_OK, SearchArgs, SearchMode, Since};
use crate::embed::Embedder;
use crate::search::{self, Answer, Correction, Filter, Hit, Mode, Moment, Note, QueryVector, SearchRequest};
use crate::store::EmbeddingModel;
use crate::telemetry::sanitize;

/// Most hits of one item, where nobody says how many.
const PER_ITEM: usize = 3;

/// `spoken search`.
///
/// # Errors
/// The database's, or standard output's; the embedding model's where only meaning was asked for; an item that is not known.
pub async fn search(world: &World, args: &SearchArgs) -> anyhow::Result<u8> {
    let mut request = request(world, args).await?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    if let Some(like) = &args.like {
        let like = target::read(&world.store, like).await?;
        let answer = search::alike(&world.store, like, &request).await?;
        show(&mut out, args, &answer, None)?;
        if answer.hits.is_empty() && !args.json {
            out.flush()?;
            eprintln!(
                "nothing else is like it{}",
                if answer.note.is_some() { ", as far as was asked" } else { "" }
            );
        }
        return Ok(EXIT_OK);
    }
    let embedder = embedder(world, request.mode).await?;
    if let Some(file) = &args.batch {
        for query in lines(file)? {
            request.query = query?;
            let (answer, correction) = ask(world, args, embedder.as_ref(), &request).await?;
            for hit in &answer.hits {
                let query = Some(request.query.as_str());
                line(&mut out, &Line { query, corrected: corrected(correction.as_ref()), hit })?;
            }
            out.flush()?;
        }
        return Ok(EXIT_OK);
    }
    request.query = args.text();
    let (answer, correction) = ask(world, args, embedder.as_ref(), &request).await?;
    if !args.json {
        if answer.hits.is_empty() && world.store.counts().await?.done == 0 {
            eprintln!("nothing here yet: `spoken ingest FOLDER|URL…` brings something in");
            return Ok(EXIT_OK);
        }
        explain(&request.query, &answer, correction.as_ref());
    }
    show(&mut out, args, &answer, correction.as_ref())?;
    Ok(EXIT_OK)
}

/// The words of the library for those of the query where need be, the query's vector, and the search.
async fn ask(
    world: &World,
    args: &SearchArgs,
    embedder: Option<&Embedder>,
    request: &SearchRequest,
) -> anyhow::Result<(Answer, Option<Correction>)> {
    let correction = if args.as_typed || request.mode == Mode::Semantic {
        None
    } else {
        let is_word = |word: &str| embedder.is_some_and(|e| e.is_word(word));
        search::corrected(&world.store, &request.query, is_word).await?
    };
    let mut request = request.clone();
    if let Some(correction) = &correction {
        request.query.clone_from(&correction.query);
    }
    let embedded = match embedder.filter(|_| !request.query.trim().is_empty()) {
        Some(embedder) => Some((
            EmbeddingModel { model_id: embedder.model_id().to_owned(), dimension: embedder.dimension() },
            embedder.embed_query(&request.query).await?,
        )),
        None => None,
    };
    let vector = embedded.as_ref().map(|(model, vector)| QueryVector { model, vector });
    if vector.is_none() && request.mode == Mode::Semantic {
        return Ok((Answer { hits: Vec::new(), note: Some(Note::NoWords) }, None));
    }
    Ok((search::search(&world.store, &request, vector).await?, correction))
}

/// The model for the query's vector, where the mode needs one. Without it a hybrid search is by words only, and says so.
async fn embedder(world: &World, mode: Mode) -> anyhow::Result<Option<Embedder>> {
    if mode == Mode::Text {
        return Ok(None);
    }
    match models::for_search(world).await {
        Ok(embedder) => Ok(Some(embedder)),
        Err(error) if mode == Mode::Hybrid => {
            eprintln!("searching by words only: {error:#}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Everything but the query.
async fn request(world: &World, args: &SearchArgs) -> anyhow::Result<SearchRequest> {
    let mode = match args.mode {
        SearchMode::Hybrid => Mode::Hybrid,
        SearchMode::Text => Mode::Text,
        SearchMode::Semantic => Mode::Semantic,
    };
    let moment = |since: Since| match since {
        Since::Day(day) => Moment::Day(day),
        Since::Ago(ago) => Moment::Ago(ago),
    };
    let ms = |time: std::time::Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let mut media = Vec::with_capacity(args.within.len());
    for what in &args.within {
        media.push(the_one(&world.store, what).await?.media_id);
    }
    let usual = if media.is_empty() { PER_ITEM } else { 0 };
    Ok(SearchRequest {
        query: String::new(),
        limit: args.limit as usize,
        mode,
        per_item: args.per_item.map_or(usual, |n| n as usize),
        around_ms: args.around.map_or(0, ms),
        filter: Filter {
            sources: args.source.clone(),
            channels: args.channel.clone(),
            after: args.after.map(moment),
            before: args.before.map(moment),
            languages: args.language.clone(),
            speakers: args.speaker.clone(),
            min_duration_ms: args.longer_than.map(ms),
            max_duration_ms: args.shorter_than.map(ms),
            media,
        },
    })
}

/// The lines of a file or of standard input; what is not UTF-8 in them is replaced.
fn lines(file: &Path) -> anyhow::Result<impl Iterator<Item = anyhow::Result<String>>> {
    let source: Box<dyn std::io::Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        let named = || format!("failed to read the queries in {}", file.display());
        Box::new(std::fs::File::open(file).with_context(named)?)
    };
    Ok(BufReader::new(source).split(b'\n').map(|line| {
        Ok(String::from_utf8_lossy(&line.context("failed to read a query")?)
            .trim_end_matches('\r')
            .to_owned())
    }))
}

/// One line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    corrected: Option<&'a str>,
    #[serde(flatten)]
    hit: &'a Hit,
}

fn line(out: &mut impl Write, line: &Line<'_>) -> anyhow::Result<()> {
    Ok(writeln!(out, "{}", serde_json::to_string(line)?)?)
}

fn corrected(correction: Option<&Correction>) -> Option<&str> {
    correction.map(|c| c.query.as_str())
}

fn show(
    out: &mut impl Write,
    args: &SearchArgs,
    answer: &Answer,
    correction: Option<&Correction>,
) -> anyhow::Result<()> {
    if args.json {
        for hit in &answer.hits {
            line(out, &Line { query: None, corrected: corrected(correction), hit })?;
        }
    } else {
        print::grouped(out, &answer.hits)?;
    }
    Ok(out.flush()?)
}

/// What is to be said about an answer, on standard error.
fn explain(query: &str, answer: &Answer, correction: Option<&Correction>) {
    if let Some(Correction { query, replaced }) = correction {
        let unsaid: Vec<String> = replaced.iter().map(|(word, _)| format!("“{}”", sanitize(word))).collect();
        eprintln!(
            "showing results for {} (nobody says {}; --as-typed looks for it all the same)",
            sanitize(query),
            unsaid.join(" or ")
        );
    }
    match answer.note {
        Some(Note::Relaxed) => eprintln!("nothing is exactly that; these come close"),
        Some(Note::NothingInScope) => {
            eprintln!("no finished item is what was asked for (source, channel, date, length)")
        }
        Some(Note::OnlyExclusions) => eprintln!("only exclusions: name a word to look for as well"),
        Some(Note::NoWords) => eprintln!("there is no word to look for in {:?}", sanitize(query)),
        None if answer.hits.is_empty() => eprintln!("nothing found for {:?}", sanitize(query)),
        None => {}
    }
}
