//! The activity as a picture.

use std::fmt::Write;

use crate::store::stats::{Bucket, Stats, Unit};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 320.0;
/// Room for the numbers at the left, the dates below and the title above.
const LEFT: f64 = 64.0;
const BELOW: f64 = 40.0;
const ABOVE: f64 = 40.0;
const RIGHT: f64 = 16.0;
/// Dates below the bars at most.
const DATES: usize = 8;

/// An SVG document: a bar for each stretch of time, as high as the audio that was transcribed in it.
pub(super) fn svg(stats: &Stats) -> String {
    let Stats { activity, unit, .. } = stats;
    let most = activity.iter().map(|b| b.audio_ms).max().unwrap_or(0) as f64 / 3_600_000.0;
    let (top, step) = scale(most);
    let (wide, high) = (WIDTH - LEFT - RIGHT, HEIGHT - ABOVE - BELOW);
    let y = |hours: f64| ABOVE + high * (1.0 - hours / top);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#444\">\n\
         <title>Hours of audio transcribed, by {0}</title>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\" fill=\"#111\">Hours of audio transcribed, by {0}</text>\n",
        unit.as_str()
    );
    let mut line = 0.0;
    while line <= top + step / 2.0 {
        let at = y(line);
        // Writing to a string does not fail.
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0,
            short(line)
        );
        line += step;
    }
    let each = wide / activity.len().max(1) as f64;
    let every = activity.len().div_ceil(DATES).max(1);
    for (n, bucket) in activity.iter().enumerate() {
        let hours = bucket.audio_ms as f64 / 3_600_000.0;
        let x = LEFT + each * n as f64;
        let date = date(bucket, *unit);
        if bucket.items > 0 {
            // Seen however little it was.
            let height = (y(0.0) - y(hours)).max(1.0);
            let _ = writeln!(
                svg,
                "<rect x=\"{:.2}\" y=\"{:.2}\" width=\"{:.2}\" height=\"{height:.2}\" fill=\"#2f6f9f\">\
                 <title>{date}: {} h, {} items</title></rect>",
                x + each * 0.1,
                y(0.0) - height,
                (each * 0.8).max(0.5),
                short(hours),
                bucket.items
            );
        }
        if n % every == 0 {
            let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\">{date}</text>", x, HEIGHT - BELOW + 20.0);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn date(bucket: &Bucket, unit: Unit) -> String {
    let form = match unit {
        Unit::Hour => "%m-%d %H:%M",
        Unit::Day | Unit::Week => "%Y-%m-%d",
        Unit::Month => "%Y-%m",
        Unit::Year => "%Y",
    };
    bucket.from.format(form).to_string()
}

/// The top of the scale and the distance of its lines: 1, 2 or 5 times a power of ten, four to eight lines.
fn scale(most: f64) -> (f64, f64) {
    let rough = most.max(0.001) / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|step| *step >= rough).unwrap_or(rough);
    ((most.max(0.001) / step).ceil() * step, step)
}

/// Three digits are enough, and no zeros behind them.
fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_round() {
        for (most, top, step) in [(4.3, 5.0, 1.0), (97.0, 100.0, 20.0), (1_234.0, 1_500.0, 500.0)] {
            let (found_top, found_step) = scale(most);
            assert!(
                (found_top - top).abs() < 1e-9 && (found_step - step).abs() < 1e-9,
                "{most}: {found_top} {found_step}"
            );
        }
        assert_eq!(
            (short(0.5), short(20.0), short(0.0)),
            ("0.5".to_owned(), "20".to_owned(), "0".to_owned())
        );
    }
}
