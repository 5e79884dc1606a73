use super::*;

fn all() -> impl Iterator<Item = Script> {
    names().map(|name| Script::parse(name, name, embedded(name).unwrap()).unwrap())
}

#[test]
fn every_scenario_comes_out_as_its_file_says_and_no_expectation_is_one_that_nothing_could_break() {
    let results: Vec<_> = all().map(|script| script.play(200, 1)).collect();
    for result in &results {
        assert!(result.held, "{result}");
    }
    let scripts: Vec<_> = all().collect();
    let played = || results.iter().flat_map(|result| &result.cases).map(|case| &case.played);
    for expectation in scripts.iter().flat_map(|script| &script.cases).flat_map(|case| &case.expectations) {
        let Expectation { client, figure, bounds } = expectation;
        // In another scenario the same figure is one that would not do here.
        let is_outside = |seen: Range| seen.least < bounds.least || bounds.most < seen.most;
        let is_broken = played().any(|played| match client {
            Some(name) => {
                let seen = played.clients.iter().filter(|seen| seen.client == *name);
                seen.filter_map(|seen| figure.of_client(seen)).any(is_outside)
            }
            None => figure.of_service(&played.service).is_some_and(is_outside),
        });
        assert!(is_broken, "{expectation:?} holds whatever happens");
    }
}

#[test]
fn without_its_drain_a_scenario_that_is_saved_by_it_does_not_hold() {
    let mut seen = 0;
    for mut script in all() {
        script.cases.retain(|case| case.model.drain >= case.model.rules.ttl && !case.name.contains("ignores"));
        for case in &mut script.cases {
            case.model.drain = std::time::Duration::ZERO;
        }
        if !script.cases.is_empty() {
            seen += 1;
            let result = script.play(40, 1);
            for case in &result.cases {
                assert!(case.expectations.iter().any(|finding| !finding.held), "{result}");
            }
        }
    }
    assert!(seen > 5, "{seen}");
}

#[test]
fn the_list_has_a_line_for_each() {
    assert_eq!(list().unwrap(), include_str!("../../tests/scenarios.txt"));
}

#[test]
fn one_seed_gives_one_result_and_another_seed_another() {
    let said = |seed| {
        let script = Script::parse("it", "it.toml", embedded("resolver-caches").unwrap()).unwrap();
        serde_json::to_string(&script.play(20, seed)).unwrap()
    };
    assert_eq!(said(1), said(1));
    assert_ne!(said(1), said(2));
}

#[test]
fn a_rule_that_is_set_beside_the_file_counts() {
    let mut script = Script::parse("it", "it.toml", embedded("more-than-eight").unwrap()).unwrap();
    script.set(&["most-answers=12".parse().unwrap()]).unwrap();
    let result = script.play(5, 1);
    assert!(!result.held, "{result}");
    assert!(script.set(&["tick=0s".parse().unwrap()]).unwrap_err().contains("tick is 0s"));
}

#[test]
fn what_is_wrong_in_a_file_is_told_with_its_line_and_what_to_do() {
    const GOOD: &str = "title = 'a'\nabout = 'b'\nsource = 'c'\n[rules]\nttl = '60s'\n[clients]\nhabits = ['try-next']\n\
                        [[do]]\nat = '10s'\ndeploy = 2\n[[expect]]\nclient = 'try-next'\nmean = [1, 2.5]\n";
    assert!(Script::parse("it", "it.toml", GOOD).is_ok());
    for (from, to, expected) in [
        ("title = 'a'\n", "", "it.toml:1: missing field `title`"),
        ("title = 'a'", "title = ' '", "it.toml:1: title is empty: write"),
        ("about", "abuot", "it.toml:2: unknown field `abuot`"),
        ("title = 'a'", "title = 'a", "it.toml:1: "),
        ("ttl = '60s'", "ttl = 'soon'", "it.toml:5: ttl cannot be \"soon\""),
        ("ttl = '60s'", "tll = '60s'", "it.toml:5: there is no rule \"tll\""),
        ("ttl = '60s'", "tick = 0", "it.toml:5: tick is 0s"),
        ("ttl = '60s'", "ttl = [1]", "it.toml:5: invalid type"),
        ("'try-next']", "'curl']", "it.toml:7: \"curl\" is no client: there are front"),
        ("['try-next']", "[]", "there are no clients: add [clients]"),
        ("['try-next']", "['try-next']\nprocesses = 0", "it.toml:8: processes is 0: set 1 to 1000"),
        ("['try-next']", "['try-next']\nrate = 0.0", "it.toml:8: rate is 0: set 0.01"),
        ("at = '10s'", "at = 'noon'", "it.toml:9: \"noon\""),
        ("at = '10s'\n", "", "it.toml:8: it is not clear when this is done: set either at or after"),
        ("at = '10s'", "after = '10s'", "it.toml:8: after counts from the end of a deploy"),
        ("deploy = 2", "deploy = 2\nscale = 2", "it.toml:8: it is not clear what is done: set one of deploy"),
        ("deploy = 2", "deploy = 0", "it.toml:8: deploy = 0"),
        ("deploy = 2", "stop = 0", "it.toml:8: no task: set 1 or more"),
        ("deploy = 2", "scale = 0", "it.toml:8: scale = 0: set 1"),
        ("deploy = 2", "lose-zone = 2", "it.toml:8: lose-zone: there are two zones"),
        ("deploy = 2", "deploy = 2\nnoticed-after = '1s'", "it.toml:8: noticed-after belongs to lose-zone"),
        ("deploy = 2", "deploy = 2\nserve-stale = true", "it.toml:8: serve-stale belongs to dns-fails"),
        ("[[do]]\nat = '10s'\ndeploy = 2\n", "", "nothing is done: add [[do]]"),
        ("'try-next'\nmean", "'front'\nmean", "it.toml:11: \"front\" is none of the clients here, which are try-next"),
        ("[1, 2.5]", "[2, 1]", "it.toml:13: nothing is between 2 and 1"),
        ("[1, 2.5]", "[1]", "it.toml:13: expected two numbers"),
        ("[1, 2.5]", "'few'", "it.toml:13: invalid type"),
        ("mean = [1, 2.5]\n", "", "it.toml:11: nothing is expected here: add a figure"),
        ("mean = [1, 2.5]", "completes = 100", "it.toml:11: completes is of the service"),
        ("client = 'try-next'\n", "", "it.toml:11: mean is of a client"),
        ("[[expect]]\nclient = 'try-next'\nmean = [1, 2.5]\n", "", "nothing is expected: add [[expect]]"),
        ("[1, 2.5]", "1\n[[case]]\nname = 'a'\n[[case]]\nname = 'a'", "it.toml:16: there are two cases \"a\""),
        ("[1, 2.5]", "1\n[[revision]]\nnumber = 2\n[[revision]]\nnumber = 2", "it.toml:16: revision 2 is there twice"),
        ("[1, 2.5]", "1\ncauses = { bad-luck = 1 }", "it.toml:14: unknown variant `bad-luck`"),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let fault = Script::parse("it", "it.toml", &GOOD.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(fault.starts_with(expected) || !expected.starts_with("it.toml") && fault.contains(expected), "{fault}");
    }
}

#[test]
fn an_expectation_that_does_not_hold_is_told() {
    let text = embedded("resolver-caches").unwrap().replacen("failing-plays = [25, 48]", "failing-plays = 3.25", 1);
    let result = Script::parse("it", "it.toml", &text).unwrap().play(20, 1);
    assert!(!result.held);
    let said = result.to_string();
    assert!(said.starts_with("it: One resolver cache, or three (20 plays, NOT as expected)\n"), "{said}");
    let broken: Vec<_> = said.lines().filter(|line| line.ends_with("  NO")).collect();
    assert!(broken[0].contains("3.2 %") && broken[0].contains("one cache"), "{said}");
}
