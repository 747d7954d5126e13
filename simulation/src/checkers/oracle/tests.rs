//! One history for each rule that must be caught, histories that must not, and a plain definition to compare with.

use super::*;
use crate::checkers::testing::History;

#[test]
fn registers() {
    let cases: &[(&str, &str, Option<&str>)] = &[
        ("in order", "a:w1 a=ok b:r b=1 c:w2 c=ok d:r d=2", None),
        ("never written", "a:r a=none b:w1 b=ok c:r c=1", None),
        ("a read sees a write under way", "a:w1 b:r b=1 a=ok", None),
        ("or not yet", "a:w1 b:r b=none c:r c=1 a=ok", None),
        ("an unknown write shows late", "a:w1 a=? b:r b=none c:w2 c=ok d:r d=2 e:r e=1", None),
        ("or never", "a:w1 a=? b:w2 b=ok c:r c=2", None),
        ("reads that overlap may differ", "a:w1 a=ok b:w2 c:r d:r c=2 d=1 b=ok", None),
        ("two writes at once end in any order", "a:w1 b:w2 a=ok b=ok c:r c=1 d:r d=1", None),
        ("a slow read may be old", "a:w1 a=ok b:r c:w2 c=ok b=1 d:r d=2", None),
        ("a refused write", "a:w1 a=ok b:w2 b=no c:r c=1", None),
        ("reads without an answer", "a:w1 a=ok b:r b=? c:r c=no d:r", None),
        ("nobody wrote it", "a:r a=4", Some("which nobody has written")),
        ("read before it was written", "a:r a=4 b:w4 b=ok", Some("which nobody has written")),
        ("refused, then read", "a:w1 a=no b:r b=1", Some("whose write was refused")),
        ("read, then refused", "a:w1 b:r b=1 a=no", Some("had returned that value")),
        ("an acknowledged write is lost", "a:w1 a=ok b:r b=none", Some("was acknowledged")),
        ("an overwritten value comes back", "a:w1 a=ok b:w2 b=ok c:r c=1", Some("value 2 was acknowledged")),
        ("what was read is lost", "a:w1 a=? b:r b=1 c:r c=none", Some("value 1 was read")),
        ("reads go back", "a:w1 b:w2 c:r c=1 d:r d=2 e:r e=1 a=ok b=ok", Some("value 2 was read")),
        (
            "a write takes effect twice",
            "a:w1 a=? b:r b=1 c:w2 c=ok d:r d=2 e:r e=1",
            Some("two values at once"),
        ),
        (
            "an unknown write lies between",
            "a:w1 a=ok b:w2 b=? c:r c=2 d:w3 d=ok e:r e=2",
            Some("value 3 was acknowledged"),
        ),
        ("two at once", "a:w1 b:w2 c:r c=1 d:r d=2 e:r e=1 f:r f=2", Some("value 2 was read and")),
        ("old, while a newer one is known", "a:w1 a=ok b:w2 c:r c=2 d:r d=1 b=ok", Some("value 2 was read")),
    ];
    for (name, script, expected) in cases {
        History::of(script).expect(name, Oracle::new(), *expected);
    }
}

#[test]
fn operations() {
    let cases: &[(&str, &str, Option<&str>)] = &[
        ("in order", "a:s1 a=op3 b:s2 b=op4 c:l c=[3:1,4:2]", None),
        ("an unknown submission shows", "a:s1 a=? b:l b=[] c:l c=[3:1] d:l d=[3:1*]", None),
        ("a submission is repeated", "a:s1 a=? b:s1 b=op3 c:l c=[3:1]", None),
        ("repeated, and the repetition is refused", "a:s1 a=? b:s1 b=no c:l c=[3:1]", None),
        ("a listing that overlaps", "c:l a:s1 a=op3 c=[]", None),
        ("acknowledged, not listed", "a:s1 a=op3 b:l b=[]", Some("is without it")),
        ("listed, then not", "a:s1 b:l b=[3:1] c:l c=[]", Some("is without it")),
        ("nobody submitted it", "b:l b=[3:1]", Some("nobody has submitted")),
        ("refused, then listed", "a:s1 a=no b:l b=[3:1]", Some("was refused")),
        ("listed, then refused", "a:s1 b:l b=[3:1] a=no", Some("as were all before it")),
        ("a hole", "a:s1 c:l a=op3 b:s2 b=op4 c=[4:2]", Some("which is before it in the log")),
        ("no hole: another log", "a:s1 c:l a=op1.3 b:s2 b=op2.4 c=[2.4:2]", None),
        (
            "two logs, both with a hole",
            "a:s1 c:l a=op1.3 b:s2 b=op1.4 c=[1.4:2]",
            Some("which is before it in the log"),
        ),
        ("behind what another log has", "a:s1 a=op1.9 b:s2 b=op2.3 c:l c=[1.9:1,2.3:2]", None),
        ("the log went back", "a:s1 a=op1.9 b:s2 b=op1.3", Some("the log went back")),
        ("fills a hole", "a:s1 b:s2 c:l c=[4:2] a=op3", Some("which is behind it in the log")),
        ("the log goes back", "a:s1 a=op5 b:s2 b=op4", Some("the log went back")),
    ];
    for (name, script, expected) in cases {
        History::of(script).expect(name, Oracle::new(), *expected);
    }
}

#[test]
fn what_was_not_read_again_is_not_verified() {
    let undecided = |script| History::of(script).judge(vec![Box::new(Oracle::new())]).unwrap()[0].undecided;
    assert_eq!(undecided("a:w1 a=ok b:r b=1 c:s1 c=op2 d:l d=[2:1]"), 0);
    assert_eq!(undecided("a:w1 a=?"), 0);
    assert_eq!(undecided("b:r a:w1 a=ok b=1"), 1, "the read began before");
    assert_eq!(undecided("a:w1 a=ok c:s1 c=op2"), 2);
}
