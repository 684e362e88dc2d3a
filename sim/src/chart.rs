//! Line charts, as SVG.

use std::fmt::Write as _;

/// A chart.
pub(crate) struct Chart<'a> {
    /// What it shows.
    pub(crate) title: &'a str,
    /// What is along.
    pub(crate) along: &'a str,
    /// What is up.
    pub(crate) up: &'a str,
    /// Its lines: a name, and points in the order of what is along.
    pub(crate) lines: Vec<(String, Vec<(f64, f64)>)>,
    /// Values that a guess would have: a broken line for each.
    pub(crate) guesses: Vec<f64>,
    /// Points are apart from each other.
    pub(crate) dots: bool,
}

impl Chart<'_> {
    /// The chart as a figure of a page. Nothing, if it has no points.
    pub(crate) fn figure(&self) -> String {
        let points = || self.lines.iter().flat_map(|(_, points)| points);
        if points().next().is_none() {
            return String::new();
        }
        let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(0.0, f64::max);
        let highest = self.guesses.iter().copied().fold(most(|point| point.1), f64::max);
        let (along, up) = (Scale::to(most(|point| point.0)), Scale::to(highest));
        let (title, label) = (escape(self.title), escape(self.along));
        let mut text = format!(
            "<figure><figcaption>{title}</figcaption>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{title}\">\n"
        );
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let x = |value: f64| LEFT + value / along.most * (right - LEFT);
        let y = |value: f64| bottom - value / up.most * (bottom - TOP);
        for value in up.marks() {
            let (at, label) = (y(value), up.label(value));
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/><text x=\"{:.1}\" y=\"{:.1}\" \
                 text-anchor=\"end\">{label}</text>",
                LEFT - 6.0,
                at + 4.0
            );
        }
        for value in along.marks() {
            let (at, label) = (x(value), along.label(value));
            let _ = writeln!(
                text,
                "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
                bottom + 16.0
            );
        }
        let _ = writeln!(text, "<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>");
        let _ = writeln!(
            text,
            "<text x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text><text x=\"{LEFT}\" y=\"{:.1}\">{}</text>",
            HEIGHT - 4.0,
            TOP - 8.0,
            escape(self.up)
        );
        for guess in &self.guesses {
            let at = y(*guess);
            let _ = writeln!(
                text,
                "<path class=\"guess\" d=\"M{LEFT} {at:.1}H{right}\"/><text x=\"{right}\" y=\"{:.1}\" \
                 text-anchor=\"end\">a guess</text>",
                at - 4.0
            );
        }
        for (number, (_, points)) in self.lines.iter().enumerate() {
            match self.dots {
                true => {
                    for (a, b) in points {
                        let (a, b) = (x(*a), y(*b));
                        let _ = writeln!(
                            text,
                            "<circle class=\"dot c{number}\" cx=\"{a:.1}\" cy=\"{b:.1}\" r=\"3\"/>"
                        );
                    }
                }
                false => {
                    let way: Vec<_> =
                        points.iter().map(|(a, b)| format!("{:.1} {:.1}", x(*a), y(*b))).collect();
                    let _ = writeln!(text, "<path class=\"line c{number}\" d=\"M{}\"/>", way.join("L"));
                }
            }
        }
        text += "</svg>\n";
        if self.lines.len() > 1 {
            text += "<ul class=\"legend\">";
            for (number, (name, _)) in self.lines.iter().enumerate() {
                let _ = write!(text, "<li class=\"c{number}\">{}</li>", escape(name));
            }
            text += "</ul>\n";
        }
        text + "</figure>\n"
    }
}

/// Lines that a chart can tell apart.
pub(crate) const COLOURS: usize = 6;

/// A round scale from zero.
struct Scale {
    most: f64,
    step: f64,
}

impl Scale {
    fn to(most: f64) -> Self {
        let most = if most > 0.0 && most.is_finite() { most } else { 1.0 };
        // A step of 1, 2 or 5 times a power of ten, four to nine of them.
        let power = libm::pow(10.0, libm::floor(libm::log10(most / 4.0)));
        let step = [5.0, 2.0, 1.0].into_iter().map(|digit| digit * power).find(|step| most / step >= 4.0);
        let step = step.unwrap_or(power);
        Self { most: libm::ceil(most / step - 1e-9) * step, step }
    }

    fn marks(&self) -> impl Iterator<Item = f64> + '_ {
        (0..=libm::round(self.most / self.step) as u32).map(|number| f64::from(number) * self.step)
    }

    fn label(&self, value: f64) -> String {
        let digits = (-libm::floor(libm::log10(self.step) + 1e-9)).max(0.0) as usize;
        format!("{value:.digits$}")
    }
}

/// Text as a page shows it.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = 44.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_round_and_reach_beyond_the_greatest_value() {
        let marks = |most: f64| {
            let scale = Scale::to(most);
            scale.marks().map(|mark| scale.label(mark)).collect::<Vec<_>>()
        };
        assert_eq!(marks(1.0), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(marks(173.0), ["0", "20", "40", "60", "80", "100", "120", "140", "160", "180"]);
        assert_eq!(marks(0.0), marks(1.0));
        assert_eq!(marks(f64::INFINITY), marks(1.0));
    }

    #[test]
    fn a_chart_without_points_is_none_and_names_are_only_text() {
        let chart = |points: Vec<(f64, f64)>| Chart {
            title: "a <b>",
            along: "x",
            up: "y",
            lines: vec![("one & two".into(), points), ("three".into(), vec![])],
            guesses: vec![0.5],
            dots: false,
        };
        assert_eq!(chart(vec![]).figure(), "");
        let text = chart(vec![(0.0, 0.0), (1.0, 2.0)]).figure();
        assert!(text.contains("a &lt;b&gt;") && text.contains("one &amp; two") && !text.contains("<b>"));
        // A quarter of the way up to the highest mark.
        let quarter = HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * 0.25;
        let guess = text.lines().find(|line| line.contains("\"guess\"")).unwrap_or_default();
        assert!(guess.contains(&format!("M{LEFT} {quarter:.1}H")), "{guess}");
    }
}
