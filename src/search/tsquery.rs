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
/// Share of all passages from which on a word says so little that others may be looked for in its stead.
const COMMON: f64 = 0.05;

/// The query as `tsquery`s, in text form; none where no word is left of it.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct TsQueries {
    /// The words one after the other, as they stand; exclusions obeyed.
    pub phrase: Option<String>,
    /// All of them, in any reading; exclusions obeyed.
    pub everything: Option<String>,
    /// What to ask the index for to get all rows of `everything`, one reading each. Alone each is answered by going through
    /// its rarest word; an index that is asked for all at once looks up every word of each for every row of any.
    pub gates: Vec<String>,
    /// Common words are left out of `gates`: some rows that they let pass are none of `everything`.
    pub wide: bool,
    /// Some of them; exclusions obeyed.
    pub anything: Option<String>,
    /// Only the exclusions: what must not occur does not.
    pub without: Option<String>,
    /// The library is large: less of each list can be ranked.
    pub large: bool,
}

/// Reads the query in every language that occurs, and as plain words. Within one reading its stop words are left out, as
/// `websearch_to_tsquery` does; a reading that asks for all that another asks for, and for more, is left out. A word that is
/// a stop word in one of them is left out of the relaxed search, and so are the commonest words (by the statistics that
/// ANALYZE keeps, and by the library's list of words) as soon as the rarer ones match enough: they would match half the
/// library, cost the most, and tell the least.
///
/// From the gates, too, common words are left out, where two rarer ones remain: the index takes longer to look them up beside
/// the rare ones than reading the few rows takes that hold those.
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
             SELECT config, fold, place, '(' || string_agg('(' || q::text || ')', ' | ') || ')' AS q
             FROM terms WHERE place >= 0 AND numnode(q) > 0 GROUP BY config, fold, place
         ), wanted AS (
             SELECT DISTINCT parts FROM (SELECT array_agg(DISTINCT q) AS parts FROM groups GROUP BY config, fold) g
         ), kept AS (
             SELECT parts FROM wanted w
             WHERE NOT EXISTS (SELECT FROM wanted o WHERE o.parts <@ w.parts AND o.parts <> w.parts)
         ), unwanted AS (
             SELECT DISTINCT q::text AS q FROM terms WHERE place < 0 AND numnode(q) > 0
         ), words AS (
             SELECT word, fold,
                    phraseto_tsquery(config, CASE WHEN fold THEN spoken_fold(word) ELSE word END) AS q
             FROM readings, unnest($5::text[]) AS word
         ), meaning AS (
             SELECT word, q FROM words
             WHERE numnode(q) > 0 AND NOT (fold AND word IN (SELECT word FROM words WHERE NOT fold AND numnode(q) = 0))
         ), common AS (
             SELECT quote_literal(elem) AS lexeme, freq, freq * c.reltuples AS rows
             FROM pg_stats s
             JOIN pg_class c ON c.oid = 'passages'::regclass
             JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = s.schemaname,
             unnest(s.most_common_elems::text::text[], s.most_common_elem_freqs) AS e (elem, freq)
             WHERE s.tablename = 'passages' AND s.attname = 'tsv' AND elem IS NOT NULL AND c.reltuples > 0
         ), counted AS (
             SELECT m.word, greatest(max(c.rows), max(v.said), 0) AS rows
             FROM meaning m
             LEFT JOIN common c ON c.lexeme = m.q::text
             LEFT JOIN vocabulary v ON v.word = lower(spoken_fold(m.word))
             GROUP BY m.word
         ), ranked AS (
             SELECT word, sum(rows) OVER (ORDER BY rows, word) AS expected, row_number() OVER (ORDER BY rows, word) AS place
             FROM counted
         ), relaxed AS (
             SELECT DISTINCT m.q FROM meaning m JOIN ranked r USING (word), size
             WHERE r.place = 1 OR r.expected <= CASE WHEN size.large THEN $7 ELSE $6 END
         ), everything AS (
             SELECT string_agg('(' || array_to_string(parts, ' & ') || ')', ' | ') AS q FROM kept
         ), anything AS (
             SELECT string_agg('(' || q::text || ')', ' | ') AS q FROM relaxed
         ), gates AS (
             SELECT CASE WHEN g.rare >= 2 THEN g.few ELSE array_to_string(k.parts, ' & ') END AS q,
                    g.rare >= 2 AND g.rare < cardinality(k.parts) AS wide
             FROM kept k, LATERAL (
                 SELECT count(*) FILTER (WHERE c.freq IS NULL) AS rare,
                        string_agg(part, ' & ') FILTER (WHERE c.freq IS NULL) AS few
                 FROM unnest(k.parts) AS part
                 LEFT JOIN common c ON part = '((' || c.lexeme || '))' AND c.freq > $9
             ) g
         ), without AS (
             SELECT '!(' || string_agg('(' || q || ')', ' | ') || ')' AS q FROM unwanted
         )
         SELECT
             '(' || nullif(phraseto_tsquery('pg_catalog.simple', spoken_fold($1))::text, '') || ')'
                 || coalesce(' & ' || without.q, '') AS phrase,
             '(' || everything.q || ')' || coalesce(' & ' || without.q, '') AS everything,
             ARRAY(SELECT DISTINCT '(' || q || ')' || coalesce(' & ' || without.q, '') FROM gates) AS gates,
             EXISTS (SELECT FROM gates WHERE wide) AS wide,
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
    .bind(COMMON)
    .fetch_one(pool)
    .await
}
