//! Tests of marks: who waits for what, and what is asked for.

use futures_util::FutureExt as _;

use super::*;

fn keys(work: &Work) -> Vec<&str> {
    work.keys.iter().map(String::as_str).collect()
}

/// Marks of an engine that is heard, with everything listed once.
fn listed() -> Marks {
    let marks = Marks::default();
    marks.hears();
    let work = marks.take().unwrap();
    assert!(work.all && work.keys.is_empty());
    marks.answered(&work, Some(1), 10);
    marks
}

#[test]
fn who_waits_waits_for_the_marks_of_its_moment() {
    let marks = listed();
    assert_eq!(marks.current().now_or_never(), Some(true));
    marks.mark("a".into());
    let mut first = std::pin::pin!(marks.current());
    assert_eq!(first.as_mut().now_or_never(), None);
    let work = marks.take().unwrap();
    assert_eq!((keys(&work), work.all), (vec!["a"], false));
    marks.mark("b".into());
    let mut second = std::pin::pin!(marks.current());
    assert_eq!(second.as_mut().now_or_never(), None);
    marks.answered(&work, None, 20);
    assert_eq!(first.now_or_never(), Some(true), "whatever came since");
    assert_eq!(second.as_mut().now_or_never(), None);
    let work = marks.take().unwrap();
    marks.answered(&work, None, 30);
    assert_eq!(second.now_or_never(), Some(true));
    assert!(!marks.has_work() && marks.take().is_none());
}

#[test]
fn many_marks_are_one_listing() {
    let marks = listed();
    for _ in 0..2 {
        (0..KEYS_LEAST).for_each(|number| marks.mark(number.to_string()));
    }
    let work = marks.take().unwrap();
    assert_eq!((work.keys.len(), work.all), (KEYS_LEAST, false), "of some things, twice");
    (0..1_000).for_each(|number| marks.mark(number.to_string()));
    let work = marks.take().unwrap();
    assert_eq!((work.keys.len(), work.all), (0, true));
    assert!(marks.take().is_none());
}

#[test]
fn of_many_things_more_are_asked_for_before_all_are_listed() {
    let marks = listed();
    for (rows, most) in [(0, 32), (512, 32), (1_600, 100), (10_000, 625), (1_000_000, 1_024)] {
        marks.mark_all();
        marks.answered(&marks.take().unwrap(), Some(rows), 20);
        (0..most).for_each(|number| marks.mark(number.to_string()));
        assert_eq!(marks.take().map(|work| (work.keys.len(), work.all)), Some((most, false)), "{rows}");
        (0..=most).for_each(|number| marks.mark(number.to_string()));
        assert_eq!(marks.take().map(|work| (work.keys.len(), work.all)), Some((0, true)), "{rows}");
    }
}

#[test]
fn an_engine_that_is_not_heard_is_not_asked() {
    let marks = Marks::default();
    marks.mark("a".into());
    assert!(marks.take().is_none());
    assert_eq!((marks.current().now_or_never(), marks.as_of(5)), (Some(false), None));
    let marks = listed();
    assert_eq!(marks.as_of(50), Some(50));
    marks.mark("a".into());
    let work = marks.take().unwrap();
    let mut waits = std::pin::pin!(marks.current());
    assert_eq!(waits.as_mut().now_or_never(), None);
    marks.broke_off(60);
    assert_eq!(waits.now_or_never(), Some(false));
    marks.broke_off(70);
    assert_eq!((marks.as_of(80), marks.noted_as_of()), (Some(60), Some(60)));
    marks.hears();
    marks.answered(&work, Some(1), 90);
    assert_eq!(marks.as_of(100), Some(60), "what was asked before the break is no answer");
    assert_eq!(marks.current().now_or_never(), None);
    let work = marks.take().unwrap();
    assert!(work.all);
    marks.answered(&work, Some(1), 100);
    assert_eq!((marks.current().now_or_never(), marks.as_of(110)), (Some(true), Some(110)));
}

#[test]
fn after_an_answer_that_did_not_come_all_is_listed() {
    let marks = listed();
    marks.mark("a".into());
    marks.take().unwrap();
    marks.unanswered(50);
    assert_eq!((marks.current().now_or_never(), marks.as_of(60)), (Some(false), Some(50)));
    marks.take().unwrap();
    marks.unanswered(70);
    assert_eq!(marks.as_of(80), Some(50));
    let work = marks.take().unwrap();
    assert!(work.all);
    marks.answered(&work, Some(1), 90);
    assert_eq!((marks.current().now_or_never(), marks.as_of(100)), (Some(true), Some(100)));
}

#[test]
fn of_rows_that_are_made_anew_nothing_is_known() {
    let marks = listed();
    marks.begin_anew();
    assert_eq!((marks.current().now_or_never(), marks.as_of(50)), (None, None));
    let work = marks.take().unwrap();
    assert!(work.all);
    marks.answered(&work, Some(1), 60);
    assert_eq!((marks.current().now_or_never(), marks.as_of(70)), (Some(true), Some(70)));
}

#[test]
fn a_listing_stands_against_doubts_for_a_while() {
    let marks = listed();
    marks.doubt(10 + DOUBT_AFTER_MS - 1);
    assert!(!marks.has_work());
    marks.doubt(10 + DOUBT_AFTER_MS);
    assert!(marks.take().unwrap().all);
}

#[test]
fn whoever_works_hears_of_those_who_wait() {
    let marks = listed();
    assert_eq!(marks.hurried().now_or_never(), None);
    marks.mark("a".into());
    {
        let mut waits = std::pin::pin!(marks.current());
        assert_eq!(waits.as_mut().now_or_never(), None);
        assert_eq!(marks.hurried().now_or_never(), Some(()));
    }
    assert_eq!(marks.hurried().now_or_never(), None, "it waits no more");
}
