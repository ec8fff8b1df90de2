//! What was wanted, beside what was measured.

#[derive(Clone, Copy)]
pub enum Goal {
    AtLeast {
        wanted: f64,
        aim: f64,
    },
    AtMost {
        wanted: f64,
        aim: f64,
    },
    /// Nothing is asked for; printed for what it tells.
    Free,
}

pub struct Verdict {
    pub what: String,
    pub goal: Goal,
    pub measured: f64,
    pub unit: &'static str,
    /// What else there is to say about it.
    pub beside: String,
}

impl Goal {
    fn columns(self, measured: f64) -> [String; 3] {
        let yes = |is_met: bool| String::from(if is_met { "yes" } else { "no" });
        match self {
            Self::AtLeast { wanted, aim } => [
                format!(">= {wanted}"),
                format!("{aim}"),
                yes(measured >= wanted),
            ],
            Self::AtMost { wanted, aim } => [
                format!("<= {wanted}"),
                format!("{aim}"),
                yes(measured <= wanted),
            ],
            Self::Free => ["", "", ""].map(String::from),
        }
    }
}

pub fn print(verdicts: &[Verdict]) {
    println!("\nsummary");
    row(
        ["", "wanted", "aim", "measured", "met"].map(String::from),
        "",
    );
    for verdict in verdicts {
        let [wanted, aim, is_met] = verdict.goal.columns(verdict.measured);
        let measured = format!("{:.3} {}", verdict.measured, verdict.unit);
        row(
            [verdict.what.clone(), wanted, aim, measured, is_met],
            &verdict.beside,
        );
    }
}

fn row([what, wanted, aim, measured, is_met]: [String; 5], beside: &str) {
    let line = format!("{what:<62} {wanted:>8} {aim:>5} {measured:>10} {is_met:>4}   {beside}");
    println!("{}", line.trim_end());
}
