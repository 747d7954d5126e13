//! Structured logs on standard error, as text or JSON, each line with the node's name and id. Ids of requests and
//! operations come from the spans around an event.
//!
//! Must never: log secrets, or write to standard output, which is for people.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use longshore_raft::Runtime;
use longshore_raft::consensus::runtime::TokioRuntime;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogConfig, LogFormat};

/// Longshore's own crates: a bare level is meant for these. Others are heard from `warn` on.
const OWN_CRATES: &[&str] =
    &["longshore", "longshore_node", "longshore_model", "longshore_raft", "longshore_storage"];

const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];

/// Which events are logged. Valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// A level, or directives as `tracing_subscriber::EnvFilter` takes them.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let level = text.to_ascii_lowercase();
        if LEVELS.contains(&level.as_str()) {
            let own: Vec<String> = OWN_CRATES.iter().map(|name| format!("{name}={level}")).collect();
            // openraft warns of every heartbeat that a dead peer misses; the failure detector says it once.
            let others = if level == "off" || level == "error" { &level } else { "warn,openraft=error" };
            return Ok(Self(format!("{others},{}", own.join(","))));
        }
        let wrong = || {
            format!(
                "{text:?} is not a log level; write error, warn, info, debug or trace, or a filter such as info,longshore_raft=debug"
            )
        };
        // A lone word that is no level would be taken for the name of a crate.
        if text.is_empty() || !text.contains(['=', ',']) {
            return Err(wrong());
        }
        EnvFilter::try_new(text).map_err(|_| wrong())?;
        Ok(Self(text.to_owned()))
    }

    fn filter(&self) -> EnvFilter {
        EnvFilter::try_new(&self.0).expect("was checked when it was parsed")
    }
}

/// Who logs. The id is known once the node has one.
#[derive(Debug)]
struct NodeTag {
    name: String,
    id: OnceLock<String>,
}

/// Lets the node say its id once it knows it.
#[derive(Debug, Clone)]
pub struct LogHandle(Arc<NodeTag>);

impl LogHandle {
    /// From here on, lines carry `id` (such as `n3`). Only the first call counts: ids do not change.
    pub fn set_node_id(&self, id: impl fmt::Display) {
        let _ = self.0.id.set(id.to_string());
    }
}

/// Starts logging for the whole process.
///
/// # Errors
/// If it was started before.
pub fn start(config: &LogConfig, node_name: &str) -> Result<LogHandle, String> {
    let (subscriber, handle) = subscriber(config, node_name, std::io::stderr);
    // Also bridges the `log` crate, which some dependencies use.
    subscriber.try_init().map_err(|error| error.to_string())?;
    Ok(handle)
}

fn subscriber<W>(
    config: &LogConfig,
    node_name: &str,
    writer: W,
) -> (Box<dyn Subscriber + Send + Sync>, LogHandle)
where
    W: for<'w> tracing_subscriber::fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    let tag = Arc::new(NodeTag { name: node_name.to_owned(), id: OnceLock::new() });
    let handle = LogHandle(tag.clone());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(config.filter.filter())
        .with_writer(writer)
        .with_ansi(false);
    let subscriber: Box<dyn Subscriber + Send + Sync> = match config.format {
        LogFormat::Text => Box::new(builder.event_format(TextLines(tag)).finish()),
        LogFormat::Json => {
            Box::new(builder.event_format(JsonLines(tag)).fmt_fields(JsonFields::new()).finish())
        }
    };
    (subscriber, handle)
}

fn timestamp() -> impl fmt::Display {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(TokioRuntime::unix_time_ms()))
}

/// `TIME LEVEL node=NAME/ID span{fields}: target: message fields`
struct TextLines(Arc<NodeTag>);

impl<S, N> FormatEvent<S, N> for TextLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        write!(out, "{} {:5} node={}", timestamp(), metadata.level(), self.0.name)?;
        if let Some(id) = self.0.id.get() {
            write!(out, "/{id}")?;
        }
        out.write_char(' ')?;
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            write!(out, "{}", span.name())?;
            let extensions = span.extensions();
            if let Some(fields) = extensions.get::<FormattedFields<N>>().filter(|fields| !fields.is_empty()) {
                write!(out, "{{{fields}}}")?;
            }
            out.write_char(':')?;
        }
        write!(out, " {}: ", metadata.target())?;
        context.format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}

/// Keys of a JSON line that are always ours. A field of the same name goes under `field.NAME`.
const RESERVED: &[&str] = &["time", "level", "target", "node", "node_id"];

/// One JSON object a line: `time`, `level`, `target`, `node`, `node_id`, `message`, and the fields of the event and of the
/// spans around it, the inner before the outer.
struct JsonLines(Arc<NodeTag>);

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = BTreeMap::new();
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            if let Some(fields) = extensions.get::<FormattedFields<N>>()
                && let Ok(Value::Object(fields)) = serde_json::from_str(fields)
            {
                line.extend(fields);
            }
        }
        event.record(&mut JsonVisitor(&mut line));
        for name in RESERVED {
            if let Some(value) = line.remove(*name) {
                line.insert(format!("field.{name}"), value);
            }
        }
        let metadata = event.metadata();
        line.insert("time".to_owned(), timestamp().to_string().into());
        line.insert("level".to_owned(), metadata.level().as_str().to_lowercase().into());
        line.insert("target".to_owned(), metadata.target().into());
        line.insert("node".to_owned(), self.0.name.as_str().into());
        if let Some(id) = self.0.id.get() {
            line.insert("node_id".to_owned(), id.as_str().into());
        }
        let line = serde_json::to_string(&line).map_err(|_| fmt::Error)?;
        writeln!(out, "{line}")
    }
}

struct JsonVisitor<'a>(&'a mut BTreeMap<String, Value>);

impl JsonVisitor<'_> {
    fn set(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for JsonVisitor<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value);
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value);
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged by `act`, under the default filter.
    fn logged(format: LogFormat, act: impl FnOnce(&LogHandle)) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let config = LogConfig { format, filter: LogFilter::parse("info").unwrap() };
        let (subscriber, handle) = subscriber(&config, "web-1", move || writer.clone());
        tracing::subscriber::with_default(subscriber, || act(&handle));
        let bytes = buffer.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_lines() {
        let text = logged(LogFormat::Text, |handle| {
            tracing::info!("before");
            handle.set_node_id("n3");
            handle.set_node_id("n4");
            tracing::info_span!("request", request_id = "r1")
                .in_scope(|| tracing::warn!(count = 2, "during"));
            tracing::debug!("too fine");
        });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].contains(" INFO  node=web-1  longshore_node::logging::tests: before"), "{text}");
        let expected = "  WARN  node=web-1/n3 request{request_id=\"r1\"}: longshore_node::logging::tests: during count=2";
        assert!(lines[1].contains(expected.trim_start()), "{text}");
    }

    #[test]
    fn json_lines() {
        let text = logged(LogFormat::Json, |handle| {
            handle.set_node_id("n3");
            let outer = tracing::info_span!("request", request_id = "r1", shared = 1);
            let _outer = outer.enter();
            let inner = tracing::info_span!("operation", operation = "op1", shared = 2);
            let _inner = inner.enter();
            tracing::info!(node = "n9", good = true, ratio = 0.5, "said \"so\"\nthen");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "said \"so\"\nthen");
        assert_eq!((&line["node"], &line["node_id"]), (&"web-1".into(), &"n3".into()));
        assert_eq!((&line["field.node"], &line["level"]), (&"n9".into(), &"info".into()));
        assert_eq!((&line["request_id"], &line["operation"]), (&"r1".into(), &"op1".into()));
        assert_eq!((&line["shared"], &line["good"], &line["ratio"]), (&2.into(), &true.into(), &0.5.into()));
        assert!(line["time"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn filters() {
        for good in ["info", "DEBUG", "off", " warn ", "info,longshore_raft=debug", "longshore_node=trace"] {
            assert!(LogFilter::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "loud", "longshore_raft=loud", "info,=,=x=y"] {
            assert!(LogFilter::parse(bad).is_err(), "{bad}");
        }
        assert!(LogFilter::parse("error").unwrap().0.starts_with("error,"));
        assert!(LogFilter::parse("debug").unwrap().0.starts_with("warn,"));
    }
}
