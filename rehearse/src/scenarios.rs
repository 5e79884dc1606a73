//! `rehearse scenarios`: its flags, and what it prints.

use std::{fs, path::Path};

use clap::Args;

use crate::{
    error::Error,
    rules::Setting,
    script::{self, Script, ScriptResult},
};

/// The flags of `rehearse scenarios`.
#[derive(Args, Debug)]
pub struct Scenarios {
    /// Which to play: names, files of your own (a path that ends in .toml), or `all` [default: they are listed].
    #[arg(env = "REHEARSE_SCENARIOS", value_name = "NAME|FILE", value_delimiter = ',')]
    pub scenarios: Vec<String>,

    /// How often each case is played, with chances and cache phases of its own each time. Fewer: shares and means stray further
    /// from what is expected, which was set for 200.
    #[arg(long, env = "REHEARSE_DEPLOYS", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000), default_value = "200")]
    pub deploys: u32,

    /// Write all figures as JSON instead of tables.
    #[arg(long, env = "REHEARSE_JSON")]
    pub json: bool,

    /// Print the file of this scenario instead, as a start for one of your own.
    #[arg(long, env = "REHEARSE_SHOW", value_name = "NAME", conflicts_with = "scenarios")]
    pub show: Option<String>,
}

/// What is printed, and whether all was as expected.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Said {
    /// For stdout.
    pub text: String,
    /// Whether all was as expected, so far as something was expected.
    pub held: bool,
}

impl Scenarios {
    /// Lists, shows or plays.
    ///
    /// # Errors
    ///
    /// If there is no such scenario, a file cannot be read or is wrong, or a rule cannot be set so.
    pub fn run(&self, settings: &[Setting], seed: u64) -> Result<Said, Error> {
        if let Some(name) = &self.show {
            let text = script::embedded(name).ok_or_else(|| unknown(name))?;
            return Ok(Said { text: text.to_owned(), held: true });
        }
        if self.scenarios.is_empty() {
            return Ok(Said { text: script::list()?, held: true });
        }
        // All of them first: what is wrong is said before anything is played.
        let mut scripts = Vec::new();
        for name in &self.scenarios {
            match name.as_str() {
                "all" => scripts.extend(script::names().map(find).collect::<Result<Vec<_>, Error>>()?),
                name => scripts.push(find(name)?),
            }
        }
        for script in &mut scripts {
            script.set(settings).map_err(Error::Settings)?;
        }
        let plays = usize::try_from(self.deploys).unwrap_or(usize::MAX);
        let results: Vec<_> = scripts.iter().map(|script| script.play(plays, seed)).collect();
        let held = results.iter().all(|result| result.held);
        let text = if self.json { json(&results)? } else { tables(&scripts, &results) };
        Ok(Said { text, held })
    }
}

/// A scenario by its name, or from a file.
fn find(name: &str) -> Result<Script, Error> {
    if let Some(text) = script::embedded(name) {
        return Ok(Script::parse(name, &format!("{name}.toml"), text)?);
    }
    let path = Path::new(name);
    if path.extension().is_none_or(|extension| extension != "toml") {
        return Err(unknown(name));
    }
    let text = fs::read_to_string(path).map_err(|error| {
        Error::Settings(format!("{name} cannot be read: {error}; `rehearse scenarios` lists those that need no file"))
    })?;
    let stem = path.file_stem().map_or_else(|| name.to_owned(), |stem| stem.to_string_lossy().into_owned());
    Ok(Script::parse(&stem, name, &text)?)
}

fn unknown(name: &str) -> Error {
    let names: Vec<_> = script::names().collect();
    Error::Settings(format!(
        "there is no scenario {name:?}: there are all, {}, and files of your own, whose names end in .toml",
        names.join(", ")
    ))
}

fn json(results: &[ScriptResult]) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(results).map_err(std::io::Error::from)?;
    Ok(text + "\n")
}

fn tables(scripts: &[Script], results: &[ScriptResult]) -> String {
    let mut texts: Vec<_> = results.iter().map(ToString::to_string).collect();
    if let ([script], [text]) = (scripts, &mut texts[..]) {
        *text = format!("{}\n\n{text}", script.about.trim());
    }
    if results.len() > 1 {
        let broken: Vec<_> = results.iter().filter(|result| !result.held).map(|it| it.scenario.as_str()).collect();
        let word = if broken.is_empty() { String::new() } else { format!(", but not {}", broken.join(", ")) };
        texts.push(format!("{} of {} as expected{word}\n", results.len() - broken.len(), results.len()));
    }
    texts.join("\n")
}
