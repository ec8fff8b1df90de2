//! Hit ratios by size, as a picture in SVG.
//!
//! Sizes go to the right, by their logarithm; ratios go up, from 0 to the next ten over the highest. A line has its
//! name at its end; names that would stand over each other are moved apart.

use std::fmt::Write as _;

use corecache::engine::policy::simulate::Contender;

use super::{Row, size};

const WIDTH: f64 = 820.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 116.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 56.0;
/// Between the names of two lines.
const NAME_GAP: f64 = 16.0;

/// The frame's corners, and what they stand for.
struct Scale {
    smallest: f64,
    largest: f64,
    top_percent: f64,
}

impl Scale {
    fn of(rows: &[Row]) -> Self {
        let sizes = rows.iter().map(|row| row.size.max(1) as f64);
        let highest = rows.iter().map(|row| row.outcome.hit_ratio());
        let highest = 100.0 * highest.fold(0.0, f64::max);
        Self {
            smallest: sizes.clone().fold(f64::MAX, f64::min),
            largest: sizes.fold(1.0, f64::max),
            top_percent: ((highest / 10.0).ceil() * 10.0).clamp(10.0, 100.0),
        }
    }

    fn x(&self, size: u64) -> f64 {
        let span = (self.largest / self.smallest).ln();
        let part = match span > 0.0 {
            true => (size.max(1) as f64 / self.smallest).ln() / span,
            false => 0.5,
        };
        LEFT + part * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, percent: f64) -> f64 {
        HEIGHT - BOTTOM - percent / self.top_percent * (HEIGHT - TOP - BOTTOM)
    }
}

/// Draws the rows, which are sorted by size.
pub fn draw(title: &str, is_sized: bool, rows: &[Row]) -> String {
    let scale = Scale::of(rows);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#444\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    text(
        &mut svg,
        (LEFT, 26.0),
        "font-size=\"15\" fill=\"#111\"",
        &format!("Hit ratio by cache size: {title}"),
    );
    axes(&mut svg, &scale, is_sized, rows);
    let mut lines: Vec<_> = Contender::ALL
        .into_iter()
        // Ours comes last, on top.
        .rev()
        .filter_map(|policy| line(&mut svg, &scale, policy, rows))
        .collect();
    lines.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut lowest = f64::MIN;
    for (policy, y) in lines {
        lowest = y.max(lowest + NAME_GAP);
        let at = (WIDTH - RIGHT + 10.0, lowest + 4.0);
        text(
            &mut svg,
            at,
            &format!("fill=\"{}\" font-weight=\"600\"", color(policy)),
            policy.name(),
        );
    }
    svg += "</svg>\n";
    svg
}

fn axes(svg: &mut String, scale: &Scale, is_sized: bool, rows: &[Row]) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let step = if scale.top_percent > 50.0 { 20 } else { 10 };
    for percent in (0..=scale.top_percent as u32).step_by(step) {
        let y = scale.y(percent.into());
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#e4e4e4\"/>"
        );
        text(
            svg,
            (LEFT - 8.0, y + 4.0),
            "text-anchor=\"end\"",
            &format!("{percent} %"),
        );
    }
    let mut free_from = f64::MIN;
    let mut sizes: Vec<u64> = rows.iter().map(|row| row.size).collect();
    sizes.dedup();
    for size in sizes {
        let x = scale.x(size);
        let _ = writeln!(svg, "<path d=\"M{x:.1} {bottom}v5\" stroke=\"#888\"/>");
        if x >= free_from {
            let label = if is_sized {
                size::show(size)
            } else {
                size.to_string()
            };
            text(svg, (x, bottom + 20.0), "text-anchor=\"middle\"", &label);
            free_from = x + 60.0;
        }
    }
    let _ = writeln!(
        svg,
        "<path d=\"M{LEFT} {bottom}H{right}\" stroke=\"#888\"/>"
    );
    let unit = if is_sized {
        "cache size"
    } else {
        "cache size, entries"
    };
    let middle = (LEFT + right) / 2.0;
    text(svg, (middle, HEIGHT - 12.0), "text-anchor=\"middle\"", unit);
    let turned = "text-anchor=\"middle\" transform=\"rotate(-90 16 240)\"";
    text(svg, (16.0, 240.0), turned, "hits, part of all requests");
}

/// Draws one policy's line; returns where it ends. Nothing if the policy was not replayed.
fn line(
    svg: &mut String,
    scale: &Scale,
    policy: Contender,
    rows: &[Row],
) -> Option<(Contender, f64)> {
    let rows = rows.iter().filter(|row| row.policy == policy);
    let points: Vec<_> = rows
        .map(|row| (scale.x(row.size), scale.y(100.0 * row.outcome.hit_ratio())))
        .collect();
    let last = *points.last()?;
    let path: Vec<_> = points
        .iter()
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    let dashes = if policy == Contender::Belady {
        "6 4"
    } else {
        "none"
    };
    let color = color(policy);
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\"/>",
        path.join(" ")
    );
    for (x, y) in points {
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{color}\"/>"
        );
    }
    Some((policy, last.1))
}

/// Told apart with any kind of color vision (M. Okabe, K. Ito, 2008).
fn color(policy: Contender) -> &'static str {
    match policy {
        Contender::Corecache => "#0072b2",
        Contender::S3Fifo => "#009e73",
        Contender::Lru => "#d55e00",
        _ => "#777777",
    }
}

fn text(svg: &mut String, (x, y): (f64, f64), style: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{text}</text>");
}
