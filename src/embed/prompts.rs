//! What a model wants before the text: retrieval models are trained with different openings for questions and answers.

use std::path::Path;

/// Openings of a model's texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Prompts {
    /// Before what is looked for.
    pub query: String,
    /// Before what is found.
    pub passage: String,
}

/// Part of a model's name in lower case, opening of queries, opening of passages. The first match counts. Each line
/// is from the model card of the models named beside it.
const TABLE: &[(&str, &str, &str)] = &[
    // intfloat/e5-*, intfloat/multilingual-e5-*: "each input text should start with "query: " or "passage: ""
    ("e5-", "query: ", "passage: "),
    // BAAI/bge-*-zh-v1.5: instruction for queries only
    ("bge-small-zh", "为这个句子生成表示以用于检索相关文章：", ""),
    ("bge-base-zh", "为这个句子生成表示以用于检索相关文章：", ""),
    ("bge-large-zh", "为这个句子生成表示以用于检索相关文章：", ""),
    // BAAI/bge-m3: "no need to add instructions to the queries"
    ("bge-m3", "", ""),
    // BAAI/bge-*-en-v1.5: instruction for queries only
    ("bge-", "Represent this sentence for searching relevant passages: ", ""),
    // mixedbread-ai/mxbai-embed-large-v1: prompt for queries only
    ("mxbai-embed", "Represent this sentence for searching relevant passages: ", ""),
    // Snowflake/snowflake-arctic-embed-*-v2.0: "query: " for queries only
    ("arctic-embed-l-v2", "query: ", ""),
    ("arctic-embed-m-v2", "query: ", ""),
    // Snowflake/snowflake-arctic-embed-*: prompt for queries only
    ("arctic-embed", "Represent this sentence for searching relevant passages: ", ""),
    // nomic-ai/nomic-embed-text-v1, -v1.5; lightonai/modernbert-embed-large: trained with the same prefixes
    ("nomic-embed-text", "search_query: ", "search_document: "),
    ("modernbert-embed", "search_query: ", "search_document: "),
    // google/embeddinggemma-300m
    ("embeddinggemma", "task: search result | query: ", "title: none | text: "),
];

impl Prompts {
    /// Those of the model called `name`; most models want none.
    pub fn of(name: &str) -> Self {
        let name = name.to_lowercase();
        TABLE
            .iter()
            .find(|(part, ..)| name.contains(part))
            .map(|(_, query, passage)| Self { query: (*query).to_owned(), passage: (*passage).to_owned() })
            .unwrap_or_default()
    }

    /// Those that a model's directory states (`config_sentence_transformers.json`, the file of that library's
    /// prompts), if it states any.
    pub fn of_directory(dir: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(dir.join("config_sentence_transformers.json")).ok()?;
        let json: serde_json::Value = serde_json::from_str(&text).ok()?;
        let prompt = |names: &[&str]| {
            names.iter().find_map(|n| json["prompts"][n].as_str()).unwrap_or_default().to_owned()
        };
        let found = Self { query: prompt(&["query"]), passage: prompt(&["document", "passage"]) };
        (found != Self::default()).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_models_get_theirs() {
        assert_eq!(Prompts::of("intfloat/multilingual-e5-small").passage, "passage: ");
        assert_eq!(Prompts::of("Qdrant/multilingual-e5-large-onnx").query, "query: ");
        assert!(Prompts::of("Xenova/bge-small-en-v1.5").query.starts_with("Represent"));
        assert_eq!(Prompts::of("Xenova/bge-small-en-v1.5").passage, "");
        assert_eq!(Prompts::of("BAAI/bge-m3"), Prompts::default());
        assert_eq!(Prompts::of("Qdrant/all-MiniLM-L6-v2-onnx"), Prompts::default());
    }

    #[test]
    fn a_directory_may_state_its_own() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Prompts::of_directory(dir.path()), None);
        let file = dir.path().join("config_sentence_transformers.json");
        std::fs::write(&file, r#"{"prompts": {"query": "q: ", "document": "d: "}}"#).unwrap();
        let prompts = Prompts::of_directory(dir.path()).unwrap();
        assert_eq!((prompts.query.as_str(), prompts.passage.as_str()), ("q: ", "d: "));
        std::fs::write(&file, r#"{"prompts": {}, "default_prompt_name": null}"#).unwrap();
        assert_eq!(Prompts::of_directory(dir.path()), None);
    }
}
