//! The session that README.md shows first is run, and must print what it shows.
//!
//! The first ```` ```console ```` block is read from the README itself. Lines that begin with `$ ` are typed into one shell, after `make up`;
//! the lines below each are what it must print, standard error included. What differs from one machine or moment to another is
//! put aside on both sides before they are compared: see [`normalised`]. A line `...` stands for any lines.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    fmt::Write as _,
    fs,
    process::{Command, Stdio},
};

use kcp_e2e::paths;
use regex::Regex;

const MARK: &str = "--- openkcm readme ---";

#[derive(Debug, PartialEq)]
struct Step {
    command: String,
    shown: Vec<String>,
}

/// The steps of the first console block.
fn session(readme: &str) -> Vec<Step> {
    let block = readme.lines().skip_while(|line| line.trim() != "```console").skip(1);
    let mut steps: Vec<Step> = Vec::new();
    for line in block.take_while(|line| line.trim() != "```") {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step { command: command.to_owned(), shown: Vec::new() }),
            // A command that goes on in the next line, as a shell shows it.
            (None, Some(step)) if step.shown.is_empty() && step.command.ends_with('\\') => {
                step.command += "\n";
                step.command += line.strip_prefix("> ").unwrap_or(line);
            }
            (None, Some(step)) => step.shown.push(line.to_owned()),
            (None, None) => panic!("the session does not begin with a command: {line}"),
        }
    }
    steps
}

/// A line without what is different each time: times and ages, ports, random names, data; and without the width of columns.
fn normalised(line: &str) -> String {
    let mut text = line.trim_end().to_owned();
    for (pattern, instead) in [
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?", "TIME"),
        (r"\b\d+(\.\d+)?(ms|µs|s|m|h|d)(\d+(ms|s|m|h))?\b", "AGE"),
        (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
        (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "UUID"),
        (r"[A-Za-z0-9+/_-]{32,}={0,2}", "DATA"),
        (r"\b[a-z0-9]*[0-9][a-z0-9]{8,15}\b", "ID"),
        (r" {2,}", " "),
    ] {
        text = Regex::new(pattern).unwrap().replace_all(&text, instead).into_owned();
    }
    text
}

/// Whether the lines printed are those shown, where `...` stands for any.
fn matches(shown: &[String], printed: &[String]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((first, rest)) if first == "..." => {
            (0..=printed.len()).any(|skipped| matches(rest, &printed[skipped..]))
        }
        Some((first, rest)) => {
            printed.split_first().is_some_and(|(line, more)| line == first && matches(rest, more))
        }
    }
}

#[test]
#[ignore = "needs `make up`: `make whole` runs both"]
fn the_readme_shows_what_happens() {
    let root = paths::work_tree();
    let steps = session(&fs::read_to_string(root.join("README.md")).unwrap());
    assert!(steps.len() >= 3, "the README shows no session");
    let script: String = steps
        .iter()
        .map(|step| format!("{{ {}\n}} 2>&1; printf '\\n%s\\n' '{MARK}'\n", step.command))
        .collect();
    let output =
        Command::new("bash").arg("-c").arg(script).current_dir(&root).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let printed: Vec<&str> = text.split(MARK).collect();
    let mut wrong = String::new();
    for (step, printed) in steps.iter().zip(printed) {
        let lines = |text: &str| -> Vec<String> {
            text.lines().map(normalised).filter(|line| !line.is_empty()).collect()
        };
        if !matches(&lines(&step.shown.join("\n")), &lines(printed)) {
            let _ = write!(
                wrong,
                "$ {}\nshown:\n{}\nprinted:\n{}\n\n",
                step.command,
                step.shown.join("\n"),
                printed.trim()
            );
        }
    }
    assert!(wrong.is_empty(), "README.md is not what happens:\n\n{wrong}");
}

#[test]
fn a_session_is_read_as_it_is_written() {
    let readme = "# T\n```console\n$ one \\\n> two\nprinted\n$ three\n```\n```console\n$ not this\n```\n";
    let step = |command: &str, shown: &[&str]| Step {
        command: command.to_owned(),
        shown: shown.iter().map(|&line| line.to_owned()).collect(),
    };
    assert_eq!(session(readme), [step("one \\\ntwo", &["printed"]), step("three", &[])]);
}

#[test]
fn what_is_put_aside_is_not_what_matters() {
    assert_eq!(normalised("payments-db   Active  v2   15s"), "payments-db Active v2 AGE");
    assert_ne!(normalised("Active  v2"), normalised("Active  v1"));
    assert_ne!(normalised("openkcm-edge: disabled"), normalised("openkcm-edge: evicted"));
    let lines = |text: &str| -> Vec<String> { text.lines().map(str::to_owned).collect() };
    assert!(matches(&lines("a\n...\nd"), &lines("a\nb\nc\nd")));
    assert!(!matches(&lines("a\n...\nd"), &lines("a\nb")));
    assert!(!matches(&lines("a"), &lines("a\nb")));
}
