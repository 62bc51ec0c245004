//! What a passage is from, for the model that embeds it.

/// Characters of a heading that are told: titles of a few sites are whole descriptions, and every token of them is one that
/// the passage lacks.
const LONGEST: usize = 120;

/// What prompts with a place for a title put there where there is none (google/embeddinggemma-300m).
const NO_TITLE: &str = "title: none";

/// What is known about where a passage comes from. Goes to the embedding model before the text, and is stored nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heading {
    /// The item's title. Untrusted text.
    pub title: String,
    /// Channel, show or uploader.
    pub channel: Option<String>,
    /// Who speaks, where that is known.
    pub speaker: Option<String>,
}

impl Heading {
    /// Of an item without known speakers.
    pub fn new(title: &str, channel: Option<&str>) -> Self {
        Self { title: title.to_owned(), channel: channel.map(str::to_owned), speaker: None }
    }

    /// `Title (Channel), Speaker`, in one line and not too long; empty where nothing is known.
    pub fn text(&self) -> String {
        let line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut text = line(&self.title);
        if let Some(channel) = self.channel.as_deref().map(line).filter(|c| !c.is_empty()) {
            // Many titles name it already.
            if text.is_empty() {
                text = channel;
            } else if !text.to_lowercase().contains(&channel.to_lowercase()) {
                text = format!("{text} ({channel})");
            }
        }
        if let Some(speaker) = self.speaker.as_deref().map(line).filter(|s| !s.is_empty()) {
            text = if text.is_empty() { speaker } else { format!("{text}, {speaker}") };
        }
        if let Some((cut, _)) = text.char_indices().nth(LONGEST) {
            // At a word, unless that would be most of it.
            let at = text[..cut].rfind(' ').filter(|at| *at > cut / 2).unwrap_or(cut);
            text.truncate(at);
        }
        text
    }

    /// What stands before a passage's text: the model's own `prompt`, with the heading in the place it has for one, else
    /// after it.
    pub(super) fn opening(&self, prompt: &str) -> String {
        let text = self.text();
        if text.is_empty() {
            return prompt.to_owned();
        }
        if prompt.contains(NO_TITLE) {
            return prompt.replacen(NO_TITLE, &format!("title: {text}"), 1);
        }
        let stop = if text.ends_with(['.', '!', '?', '…', ':', '。', '！', '？']) { "" } else { "." };
        format!("{prompt}{text}{stop} ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heading_is_one_short_line() {
        assert_eq!(Heading::default().text(), "");
        assert_eq!(Heading::new(" A\n talk ", Some("The Show")).text(), "A talk (The Show)");
        assert_eq!(Heading::new("the show: one", Some("The Show")).text(), "the show: one");
        assert_eq!(Heading::new("", Some("The Show")).text(), "The Show");
        let spoken = Heading { speaker: Some("Ada".into()), ..Heading::new("Talk", None) };
        assert_eq!(spoken.text(), "Talk, Ada");
        let long = Heading::new(&"words and ".repeat(100), None).text();
        assert!(long.len() <= LONGEST && long.ends_with("and"), "{long:?}");
        assert_eq!(Heading::new(&"語".repeat(10_000), None).text().chars().count(), LONGEST);
    }

    #[test]
    fn it_stands_where_the_model_has_a_place_for_it() {
        let heading = Heading::new("Talk", None);
        assert_eq!(heading.opening("passage: "), "passage: Talk. ");
        assert_eq!(heading.opening("title: none | text: "), "title: Talk | text: ");
        assert_eq!(Heading::new("Why?", None).opening(""), "Why? ");
        assert_eq!(Heading::default().opening("passage: "), "passage: ");
    }
}
