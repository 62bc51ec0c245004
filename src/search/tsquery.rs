//! The query in PostgreSQL's form, read in every language that occurs.

use sqlx::postgres::PgPool;

use super::query::{Query, Term};

/// Passages that the words of the relaxed search may match together before common ones are left out: about as many as are
/// ranked of a list.
const RELAXED_ROWS: f64 = 3_000.0;
/// The same in a large library, where searches have less time for each row.
const RELAXED_ROWS_LARGE: f64 = 1_000.0;
/// Passages that make a library large.
const LARGE: f64 = 50_000.0;

/// The query as `tsquery`s, in text form; none where no word is left of it.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct TsQueries {
    /// The words one after the other, as they stand; exclusions obeyed.
    pub phrase: Option<String>,
    /// All of them, in any reading; exclusions obeyed.
    pub everything: Option<String>,
    /// Some of them; exclusions obeyed.
    pub anything: Option<String>,
    /// Only the exclusions: what must not occur does not.
    pub without: Option<String>,
    /// The library is large: less of each list can be ranked.
    pub large: bool,
}

/// Reads the query in every language that occurs, and as plain words. Within one reading its stop words are left out, as
/// `websearch_to_tsquery` does. A word that is a stop word in one of them is left out of the relaxed search, and so are
/// the commonest words (by the statistics that ANALYZE keeps) as soon as the rarer ones match enough: they would match
/// half the library, cost the most, and tell the least.
///
/// Everything typed is data: words and phrases go through `phraseto_tsquery`, which knows no operators; beginnings of words
/// consist of letters and digits when they come here.
pub(super) async fn ts_queries(pool: &PgPool, query: &Query) -> Result<TsQueries, sqlx::Error> {
    let wanted = query.wanted.iter().zip(0..).flat_map(|(any, group)| any.iter().map(move |t| (group, t)));
    let terms: Vec<(i32, &Term)> = wanted.chain(query.unwanted.iter().map(|t| (-1, t))).collect();
    sqlx::query_as(
        "WITH size AS (
             SELECT reltuples >= $8 AS large FROM pg_class WHERE oid = 'passages'::regclass
         ), configs AS (
             SELECT DISTINCT spoken_config(language) AS config FROM languages
         ), readings AS (
             SELECT config, false AS fold FROM configs WHERE config <> 'pg_catalog.simple'::regconfig
             UNION ALL SELECT 'pg_catalog.simple'::regconfig, true
         ), terms AS (
             SELECT r.config, r.fold, t.place,
                    CASE WHEN t.beginning THEN to_tsquery('pg_catalog.simple', t.word)
                         ELSE phraseto_tsquery(r.config, CASE WHEN r.fold THEN spoken_fold(t.word) ELSE t.word END)
                    END AS q
             FROM readings r, unnest($2::integer[], $3::text[], $4::boolean[]) AS t (place, word, beginning)
         ), groups AS (
             SELECT config, fold, place, string_agg('(' || q::text || ')', ' | ') AS q
             FROM terms WHERE place >= 0 AND numnode(q) > 0 GROUP BY config, fold, place
         ), wanted AS (
             SELECT DISTINCT q FROM (
                 SELECT string_agg('(' || q || ')', ' & ' ORDER BY place) AS q FROM groups GROUP BY config, fold) g
         ), unwanted AS (
             SELECT DISTINCT q::text AS q FROM terms WHERE place < 0 AND numnode(q) > 0
         ), words AS (
             SELECT word, fold,
                    phraseto_tsquery(config, CASE WHEN fold THEN spoken_fold(word) ELSE word END) AS q
             FROM readings, unnest($5::text[]) AS word
         ), meaning AS (
             SELECT DISTINCT q FROM words
             WHERE numnode(q) > 0 AND NOT (fold AND word IN (SELECT word FROM words WHERE NOT fold AND numnode(q) = 0))
         ), common AS (
             SELECT quote_literal(elem) AS lexeme, freq * c.reltuples AS rows
             FROM pg_stats s
             JOIN pg_class c ON c.oid = 'passages'::regclass
             JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = s.schemaname,
             unnest(s.most_common_elems::text::text[], s.most_common_elem_freqs) AS e (elem, freq)
             WHERE s.tablename = 'passages' AND s.attname = 'tsv' AND elem IS NOT NULL AND c.reltuples > 0
         ), ranked AS (
             SELECT q,
                    sum(coalesce(rows, 0)) OVER (ORDER BY coalesce(rows, 0), q::text) AS expected,
                    row_number() OVER (ORDER BY coalesce(rows, 0), q::text) AS place
             FROM meaning LEFT JOIN common ON lexeme = q::text
         ), relaxed AS (
             SELECT q FROM ranked, size WHERE place = 1 OR expected <= CASE WHEN size.large THEN $7 ELSE $6 END
         ), everything AS (
             SELECT string_agg('(' || q || ')', ' | ') AS q FROM wanted
         ), anything AS (
             SELECT string_agg('(' || q::text || ')', ' | ') AS q FROM relaxed
         ), without AS (
             SELECT '!(' || string_agg('(' || q || ')', ' | ') || ')' AS q FROM unwanted
         )
         SELECT
             '(' || nullif(phraseto_tsquery('pg_catalog.simple', spoken_fold($1))::text, '') || ')'
                 || coalesce(' & ' || without.q, '') AS phrase,
             '(' || everything.q || ')' || coalesce(' & ' || without.q, '') AS everything,
             '(' || anything.q || ')' || coalesce(' & ' || without.q, '') AS anything,
             without.q AS without,
             size.large
         FROM everything, anything, without, size",
    )
    .bind(&query.plain)
    .bind(terms.iter().map(|(place, _)| *place).collect::<Vec<_>>())
    .bind(terms.iter().map(|(_, term)| term.text.clone()).collect::<Vec<_>>())
    .bind(terms.iter().map(|(_, term)| term.beginning).collect::<Vec<_>>())
    .bind(&query.any)
    .bind(RELAXED_ROWS)
    .bind(RELAXED_ROWS_LARGE)
    .bind(LARGE)
    .fetch_one(pool)
    .await
}
