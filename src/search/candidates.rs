//! The statements that read the entries of a ranking, so that they stay quick in a library of a million passages.
//!
//! **Words.** Finding the rows that hold a word is quick however common it is; reading each of them to rank it is not (about
//! 5 µs). So of each list only the first rows that match are ranked ([`Bounds`]). Where more match, the words
//! are common, and their rank tells little; the rarer words decide, which the relaxed search has alone, and the vectors. A
//! phrase is looked for among the rows that hold all of its words. What a segment says a passage says, too: segments are asked
//! where few passages match, to rank those better, and to find segments that no passage holds.
//!
//! **Vectors.** Through the index (HNSW) where there is one, else by comparing all. With a filter, the index goes on until
//! enough entries pass (`hnsw.iterative_scan`), which takes the longer the fewer do; or all that pass are compared, which
//! takes the longer the more do. Which of the two is shorter follows from the planner's estimate of how many pass. Where the
//! index ends before enough were found, all that pass are compared after all.

use pgvector::HalfVector;
use sqlx::postgres::{PgArguments, PgPool, Postgres};
use sqlx::query::QueryAs;
use sqlx::{AssertSqlSafe, Transaction};
use uuid::Uuid;

use super::SearchError;
use super::lists::{Candidate, Unit};
use crate::store::{EmbeddingModel, Store};

/// How much of the lists of words is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Rows of a list that are ranked.
    ranked: i64,
    /// Rows that hold some of the words and are ranked: it is the list that weighs least.
    ranked_any: i64,
    /// Where so many passages match, segments are not asked.
    sparse: i64,
    /// Where a phrase stands in passages, segments are not asked.
    phrase_once: bool,
}

impl Bounds {
    /// Where everything is quick anyway.
    pub(super) const SMALL: Self =
        Self { ranked: 2_000, ranked_any: 2_000, sparse: 2_000, phrase_once: false };
    /// So that a search of a million passages ranks a few thousand rows in all.
    pub(super) const LARGE: Self = Self { ranked: 2_000, ranked_any: 1_000, sparse: 200, phrase_once: true };
}
/// Rows that hold what is rare of the words and are looked at for the rest, or all words of a phrase.
const PHRASED: i64 = 3_000;
/// The same where somebody asked for the phrase and nothing else; 20,000 take a tenth of a second.
const PHRASED_STRICT: i64 = 20_000;

/// What it takes to get the next entry out of the index and see whether it passes, in units of reading an entry beside others
/// of its item, and of finding an entry by its key. From 10 µs, 0.7 µs and 4 µs, measured with 384 elements.
const NEXT_BY_ITEM: f64 = 15.0;
const NEXT_BY_KEY: f64 = 2.5;
/// So few are compared one by one whatever the estimates say, which are bad at small numbers.
const FEW: f64 = 2_000.0;
/// Items up to which each is weighed by the planner (about a microsecond each), so that it may look their rows up in one index
/// and the words in another and read only what is in both; more are taken as a set.
const WEIGHED: usize = 1_000;

/// What a row must be part of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Within<'a> {
    /// These items; none: all.
    pub media: Option<&'a [Uuid]>,
    /// One of these languages; empty: any.
    pub languages: &'a [String],
}

impl Within<'_> {
    fn is_everything(&self) -> bool {
        self.media.is_none() && self.languages.is_empty()
    }

    /// The condition on rows of `alias`; items are parameter `first`, languages the next.
    fn sql(&self, alias: &str, first: usize) -> String {
        format!("{} AND {}", self.items(alias, first), self.spoken(alias, first + 1))
    }

    fn items(&self, alias: &str, at: usize) -> String {
        match self.media {
            None => format!("${at}::uuid[] IS NULL"),
            Some(media) if media.len() <= WEIGHED => format!("{alias}.media_id = ANY(${at}::uuid[])"),
            Some(_) => format!("{alias}.media_id IN (SELECT unnest(${at}::uuid[]))"),
        }
    }

    fn spoken(&self, alias: &str, at: usize) -> String {
        if self.languages.is_empty() {
            format!("cardinality(${at}::text[]) = 0")
        } else {
            format!("{alias}.language = ANY(${at}::text[])")
        }
    }
}

/// The first parameter of a list's statement that is a gate, after the query, how many, items and languages.
const GATES: usize = 5;

/// Words that are looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// As a `tsquery`.
    pub query: &'a str,
    /// What the index is asked for instead, one after the other; none: the query.
    pub gates: &'a [String],
    /// The gates let rows pass that do not match the query.
    pub wide: bool,
}

/// What makes a text rank high.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    /// The words and little else; the query is a phrase.
    Short,
    /// The words close to each other.
    Close,
    /// Many of the words, often.
    Many,
}

impl Rank {
    /// Normalisation 1 and 2 divide by the logarithm of the length and by the length:
    /// <https://www.postgresql.org/docs/current/textsearch-controls.html#TEXTSEARCH-RANKING>
    fn sql(self) -> &'static str {
        match self {
            Self::Short => "ts_rank_cd(t.tsv, $1::text::tsquery, 2)",
            Self::Close => "ts_rank_cd(t.tsv, $1::text::tsquery, 1)",
            Self::Many => "ts_rank(t.tsv, $1::text::tsquery, 1)",
        }
    }

    /// The rows to rank, from `table`.
    fn rows(self, table: &str, asked: Asked<'_>, bounds: Bounds, within: &Within<'_>) -> String {
        let matching = |gate: &str, most: i64| {
            format!("SELECT * FROM {table} t WHERE ({gate}) AND {} LIMIT {most}", within.sql("t", 3))
        };
        let checked = |rows: String| {
            format!("SELECT * FROM ({rows}) t WHERE t.tsv @@ $1::text::tsquery LIMIT {}", bounds.ranked)
        };
        if has_phrase(asked.query) {
            // Every row that holds the words has to be read to see whether they follow each other.
            let looked_at = if self == Self::Short { PHRASED } else { PHRASED_STRICT };
            let words =
                "t.tsv @@ regexp_replace(querytree($1::text::tsquery), '<(-|[0-9]+)>', '&', 'g')::tsquery";
            return checked(matching(words, looked_at));
        }
        let most = if self == Self::Many { bounds.ranked_any } else { bounds.ranked };
        if asked.gates.is_empty() {
            return matching("t.tsv @@ $1::text::tsquery", most);
        }
        let gates: Vec<String> =
            (0..asked.gates.len()).map(|n| format!("t.tsv @@ ${}::text::tsquery", GATES + n)).collect();
        let gates = gates.join(" OR ");
        if asked.wide { checked(matching(&gates, PHRASED)) } else { matching(&gates, most) }
    }
}

/// Whether words must follow each other in some way.
fn has_phrase(query: &str) -> bool {
    query.contains("<->")
        || query.split('<').skip(1).any(|rest| {
            rest.split_once('>').is_some_and(|(n, _)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        })
}

/// A list of both kinds: segments, then passages.
pub(super) async fn by_words(
    pool: &PgPool,
    asked: Option<Asked<'_>>,
    rank: Rank,
    bounds: Bounds,
    within: Within<'_>,
    depth: i64,
) -> Result<(Vec<Candidate>, Vec<Candidate>), SearchError> {
    let Some(asked) = asked else { return Ok(Default::default()) };
    let mut tx =
        begin(pool, "SET LOCAL enable_seqscan = off; SET LOCAL max_parallel_workers_per_gather = 0").await?;
    let (passages, matching) = passages(&mut tx, asked, rank, bounds, within, depth).await?;
    let few = match rank {
        // Where passages were not all looked at: far fewer segments hold all words of a phrase.
        Rank::Short => matching == 0 || !bounds.phrase_once,
        Rank::Close | Rank::Many => matching < bounds.sparse,
    };
    let segments =
        if few { segments(&mut tx, asked, rank, bounds, within, depth).await? } else { Vec::new() };
    tx.commit().await?;
    Ok((segments, passages))
}

/// A transaction with settings of its own. Statements are planned for the very values they are given: what is right for a
/// rare word is wrong for a common one.
async fn begin(pool: &PgPool, settings: &str) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let mut tx = pool.begin().await?;
    let sql = format!("SET LOCAL jit = off; {settings}");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await?;
    Ok(tx)
}

async fn segments(
    tx: &mut Transaction<'_, Postgres>,
    asked: Asked<'_>,
    rank: Rank,
    bounds: Bounds,
    within: Within<'_>,
    depth: i64,
) -> Result<Vec<Candidate>, SearchError> {
    let sql = format!(
        "SELECT s.media_id, s.seq, coalesce(p.first_segment, s.seq), coalesce(p.end_segment, s.seq + 1)
         FROM (
             SELECT t.media_id, t.model_id, t.seq, {} AS rank FROM ({}) t
             ORDER BY rank DESC, t.media_id, t.seq LIMIT $2
         ) s
         LEFT JOIN LATERAL (
             SELECT first_segment, end_segment FROM passages p
             WHERE p.media_id = s.media_id AND p.model_id = s.model_id
               AND p.first_segment <= s.seq AND p.end_segment > s.seq
             ORDER BY p.seq LIMIT 1
         ) p ON true
         ORDER BY s.rank DESC, s.media_id, s.seq",
        rank.sql(),
        rank.rows("segments", asked, bounds, &within),
    );
    let statement = sqlx::query_as(AssertSqlSafe(sql));
    let rows: Vec<(Uuid, i32, i32, i32)> =
        bound(statement, asked, within, depth).persistent(false).fetch_all(&mut **tx).await?;
    Ok(rows
        .into_iter()
        .map(|(media_id, seq, first, end)| Candidate {
            unit: Unit { media_id, first, end },
            segment: Some(seq),
        })
        .collect())
}

/// The passages, and how many were ranked for it.
async fn passages(
    tx: &mut Transaction<'_, Postgres>,
    asked: Asked<'_>,
    rank: Rank,
    bounds: Bounds,
    within: Within<'_>,
    depth: i64,
) -> Result<(Vec<Candidate>, i64), SearchError> {
    let sql = format!(
        "SELECT t.media_id, t.first_segment, t.end_segment, count(*) OVER () FROM ({}) t
         ORDER BY {} DESC, t.media_id, t.seq LIMIT $2",
        rank.rows("passages", asked, bounds, &within),
        rank.sql()
    );
    let statement = sqlx::query_as(AssertSqlSafe(sql));
    let rows: Vec<(Uuid, i32, i32, i64)> =
        bound(statement, asked, within, depth).persistent(false).fetch_all(&mut **tx).await?;
    let matching = rows.first().map_or(0, |(.., matching)| *matching);
    Ok((rows.into_iter().map(|(media_id, first, end, _)| unit(media_id, first, end)).collect(), matching))
}

/// A list's statement with its parameters.
fn bound<'q, Row>(
    statement: QueryAs<'q, Postgres, Row, PgArguments>,
    asked: Asked<'q>,
    within: Within<'q>,
    depth: i64,
) -> QueryAs<'q, Postgres, Row, PgArguments> {
    let statement = statement.bind(asked.query).bind(depth).bind(within.media).bind(within.languages);
    asked.gates.iter().fold(statement, |statement, gate| statement.bind(gate))
}

fn unit(media_id: Uuid, first: i32, end: i32) -> Candidate {
    Candidate { unit: Unit { media_id, first, end }, segment: None }
}

/// How the nearest are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Every vector that passes is compared.
    Exact,
    /// Through the index, with this `hnsw.ef_search`.
    Index(i32),
}

/// The nearest passages by cosine distance; of those within, and whose text `filter` lets pass.
pub(super) async fn nearest(
    store: &Store,
    model: &EmbeddingModel,
    vector: &[f32],
    filter: Option<&str>,
    within: Within<'_>,
    depth: i64,
) -> Result<Vec<Candidate>, SearchError> {
    let Some(table) = store.search_table(model).await? else { return Ok(Vec::new()) };
    let question =
        Question { table: &table.table, vector: HalfVector::from_f32_slice(vector), filter, within, depth };
    let Some(ef_search) = table.ef_search else { return question.ask(store.pool(), Way::Exact).await };
    let index = Way::Index(ef_search.max(i32::try_from(depth).unwrap_or(i32::MAX)).min(1000));
    if question.is_open() {
        return question.ask(store.pool(), index).await;
    }
    let expected = question.expected(store.pool()).await?;
    let by_item = filter.is_none() && within.languages.is_empty();
    if exact_is_shorter(expected, table.rows as f64, depth as f64, by_item) {
        return question.ask(store.pool(), Way::Exact).await;
    }
    let found = question.ask(store.pool(), index).await?;
    if (found.len() as i64) < depth && found.len() as f64 <= expected {
        // The index was searched to the end of what it may, and more should pass.
        return question.ask(store.pool(), Way::Exact).await;
    }
    Ok(found)
}

/// Whether comparing all of `expected` rows that pass takes less than going through the index until `depth` of them were met.
fn exact_is_shorter(expected: f64, rows: f64, depth: f64, by_item: bool) -> bool {
    let next = if by_item { NEXT_BY_ITEM } else { NEXT_BY_KEY };
    expected <= FEW || expected <= next * depth * (rows / expected).max(1.0)
}

struct Question<'a> {
    table: &'a str,
    vector: HalfVector,
    filter: Option<&'a str>,
    within: Within<'a>,
    depth: i64,
}

impl Question<'_> {
    /// Whether everything passes.
    fn is_open(&self) -> bool {
        self.filter.is_none() && self.within.is_everything()
    }

    /// The condition on the text of passages `p`: the words are parameter 3, languages 5.
    fn passes(&self) -> String {
        let text = if self.filter.is_some() { "p.tsv @@ $3::text::tsquery" } else { "$3::text IS NULL" };
        format!("{text} AND {}", self.within.spoken("p", 5))
    }

    /// Passages that pass, as the planner estimates.
    async fn expected(&self, pool: &PgPool) -> Result<f64, SearchError> {
        let sql = format!(
            "EXPLAIN (FORMAT JSON) SELECT FROM passages p
             WHERE $1::halfvec IS NOT NULL AND $2::bigint > 0 AND {} AND {}",
            self.passes(),
            self.within.items("p", 4)
        );
        let plan: serde_json::Value = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(&self.vector)
            .bind(self.depth)
            .bind(self.filter)
            .bind(self.within.media)
            .bind(self.within.languages)
            .persistent(false)
            .fetch_one(pool)
            .await?;
        Ok(plan.pointer("/0/Plan/Plan Rows").and_then(serde_json::Value::as_f64).unwrap_or(0.0))
    }

    async fn ask(&self, pool: &PgPool, way: Way) -> Result<Vec<Candidate>, SearchError> {
        let settings = match way {
            // Anything but the order that the index gives would be no use of it. Nested loops keep that order.
            Way::Index(ef_search) => format!(
                "SET LOCAL hnsw.ef_search = {ef_search}; SET LOCAL hnsw.iterative_scan = relaxed_order; SET LOCAL enable_sort = off; \
                 SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_hashjoin = off; \
                 SET LOCAL enable_mergejoin = off; SET LOCAL max_parallel_workers_per_gather = 0"
            ),
            Way::Exact => String::new(),
        };
        let mut tx = begin(pool, &settings).await?;
        let rows: Vec<(Uuid, i32, i32)> = sqlx::query_as(AssertSqlSafe(self.sql(way)))
            .bind(&self.vector)
            .bind(self.depth)
            .bind(self.filter)
            .bind(self.within.media)
            .bind(self.within.languages)
            .persistent(false)
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(rows.into_iter().map(|(media_id, first, end)| unit(media_id, first, end)).collect())
    }

    fn sql(&self, way: Way) -> String {
        let table = self.table;
        // An expression is not what the index orders by.
        let distance = match way {
            Way::Index(_) => "e.embedding <=> $1",
            Way::Exact => "(e.embedding <=> $1) + 0",
        };
        let items = match way {
            // As a condition on each entry that comes out of the index, looked up in a hash.
            Way::Index(_) if self.within.media.is_some() => "e.media_id = ANY($4::uuid[])".to_owned(),
            _ => self.within.items("e", 4),
        };
        let from = if self.filter.is_none() && self.within.languages.is_empty() {
            // Vectors of an item lie beside each other, and their passages need not be read for it.
            format!("{table} e WHERE $3::text IS NULL AND {items} AND cardinality($5::text[]) = 0")
        } else {
            format!(
                "{table} e JOIN media m USING (media_id)
                 JOIN passages p ON p.media_id = e.media_id AND p.model_id = m.model AND p.seq = e.seq
                 WHERE {} AND {items}",
                self.passes()
            )
        };
        // Sorted once more: the index gives them in nearly the right order.
        format!(
            "WITH near AS MATERIALIZED (
                 SELECT e.media_id, e.seq, {distance} AS distance FROM {from} ORDER BY {distance} LIMIT $2
             )
             SELECT p.media_id, p.first_segment, p.end_segment
             FROM near n JOIN media m USING (media_id)
             JOIN passages p ON p.media_id = n.media_id AND p.model_id = m.model AND p.seq = n.seq
             ORDER BY n.distance, p.media_id, p.seq"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_are_told_from_words() {
        assert!(has_phrase("'a' <-> 'b'") && has_phrase("'x' | 'a' <12> 'b'"));
        assert!(!has_phrase("'a' & 'b'") && !has_phrase("'<' & '>'") && !has_phrase("'a<b>'"));
    }

    #[test]
    fn few_are_compared_and_many_are_looked_up() {
        let million = 1e6;
        assert!(exact_is_shorter(0.0, 0.0, 100.0, true));
        assert!(exact_is_shorter(1_500.0, million, 100.0, false));
        assert!(exact_is_shorter(20_000.0, million, 100.0, true));
        assert!(!exact_is_shorter(60_000.0, million, 100.0, true));
        assert!(!exact_is_shorter(60_000.0, million, 100.0, false));
        assert!(!exact_is_shorter(million, million, 100.0, true));
    }
}
