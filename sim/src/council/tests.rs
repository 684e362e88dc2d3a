use super::*;

fn trial(authorities: usize, seed: u64) -> Trial {
    Trial { authorities, seed, documents: 4, lie: None, loss: 0.0, restarts: 0.0 }
}

fn unbroken(trial: &Trial) -> Outcome {
    let outcome = trial.run().unwrap();
    assert!(outcome.broken.is_empty(), "{trial:?}: {:?}", outcome.broken);
    outcome
}

#[test]
fn whatever_a_third_of_them_do_there_are_never_two_documents() {
    for authorities in [4, 7] {
        for seed in 0..12 {
            unbroken(&Trial { loss: 0.05, restarts: 0.5, ..trial(authorities, seed) });
        }
    }
}

#[test]
fn each_lie_is_survived_and_documents_come() {
    for lie in LIES {
        let outcome = unbroken(&Trial { lie: Some(lie), ..trial(4, 5) });
        assert_eq!(outcome.timely, outcome.due, "{lie:?}: {outcome:?}");
    }
}

#[test]
fn who_says_two_things_is_proven() {
    let proven: usize =
        (0..5).map(|seed| unbroken(&Trial { lie: Some(Lie::Equivocate), ..trial(4, seed) }).proven).sum();
    assert!(proven >= 4, "{proven}");
}

#[test]
fn one_seed_is_one_history() {
    let of = |seed| format!("{:?}", Trial { loss: 0.1, restarts: 1.0, ..trial(4, seed) }.run().unwrap());
    assert_eq!(of(3), of(3));
    assert_ne!(of(3), of(4));
}

#[test]
fn trials_of_nothing_are_refused() {
    let sound = trial(4, 1);
    for wrong in [
        Trial { authorities: 0, ..sound },
        Trial { authorities: 65, ..sound },
        Trial { documents: 0, ..sound },
        Trial { loss: 1.0, ..sound },
        Trial { loss: f64::NAN, ..sound },
        Trial { restarts: -1.0, ..sound },
    ] {
        assert_eq!(Campaign::run(&wrong, 1).unwrap_err().kind(), ErrorKind::Misuse, "{wrong:?}");
    }
    assert_eq!(Campaign::run(&sound, 0).unwrap_err().kind(), ErrorKind::Misuse);
    assert_eq!(Campaign::run(&sound, 1).unwrap().trials, 1);
}
