//! `longshore api [METHOD] PATH`: any endpoint of the node's HTTP API, as it is.
//!
//! What the node answers goes to standard output byte by byte, a watch as it goes on; only JSON on a terminal is set out in lines. An error of
//! the node ends the command as it would end any other.

use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::{Method, StatusCode};
use serde_json::{Map, Value};

use super::error::{CliError, Exit};
use super::output;
use super::session::Session;
use crate::api::client::RawReply;
use crate::api::limits::REPLY_MAX_BYTES;
use crate::api::openapi;
use crate::api::percent::encode;
use crate::api::types::{ApiError, WatchEnd};

/// Most bytes of a body to send. Nodes take much less; it keeps a wrong file out of memory.
const INPUT_MAX_BYTES: usize = 64 << 20;

/// Most bytes of a watch's last line that are looked at for an error.
const LAST_LINE_MAX_BYTES: usize = 64 << 10;

/// How alike a path and an endpoint must be to be suggested (0: nothing in common, 1: the same).
const SIMILAR: f64 = 0.7;

#[derive(Debug, Args)]
pub(super) struct ApiArgs {
    /// The endpoint's path, or the method before it
    #[arg(value_name = "METHOD|PATH")]
    first: String,
    /// The endpoint's path, after a method; with its query, if it has one
    #[arg(value_name = "PATH", conflicts_with = "method")]
    second: Option<String>,
    /// The method [default: GET, or POST if there are fields or an input]
    #[arg(long, short = 'X', value_name = "METHOD")]
    method: Option<String>,
    /// A header of the request; may be repeated
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// A field of the JSON body, a string; of the query, if the method is GET; may be repeated
    #[arg(long = "raw-field", short = 'f', value_name = "KEY=VALUE", value_parser = parse_text_field)]
    texts: Vec<(String, Value)>,
    /// The same, of any type: a number, true, null, a list, an object
    #[arg(long = "field", short = 'F', value_name = "KEY=JSON", value_parser = parse_json_field)]
    values: Vec<(String, Value)>,
    /// The body, from a file or, with -, from standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["texts", "values"])]
    input: Option<PathBuf>,
    /// Print the reply's status line and headers first
    #[arg(long, short)]
    include: bool,
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) =
        text.split_once(':').ok_or("write NAME: VALUE, such as Idempotency-Key: nightly-7")?;
    let name: HeaderName =
        name.trim().parse().map_err(|_| format!("{name:?} is not the name of a header"))?;
    if [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION].contains(&name) {
        return Err(format!("{name} follows from the request, and cannot be chosen"));
    }
    let value = value.trim();
    let value = value.parse().map_err(|_| format!("{value:?} cannot be the value of a header"))?;
    Ok((name, value))
}

fn split_field(text: &str) -> Result<(String, &str), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value)),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

fn parse_text_field(text: &str) -> Result<(String, Value), String> {
    split_field(text).map(|(key, value)| (key, Value::from(value)))
}

fn parse_json_field(text: &str) -> Result<(String, Value), String> {
    let (key, value) = split_field(text)?;
    let value = serde_json::from_str(value)
        .map_err(|error| format!("{value:?} is not JSON ({error}); for a string write -f {key}=..."))?;
    Ok((key, value))
}

/// What is to be sent.
#[derive(Debug)]
struct Request {
    method: Method,
    /// With its query.
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

pub(super) async fn api(session: &mut Session<'_>, args: ApiArgs) -> Result<(), CliError> {
    let include = args.include;
    let Request { method, path, headers, body } = request(session, args)?;
    let reply = tokio::select! {
        biased;
        () = &mut session.interrupt => return Err(CliError::quiet(Exit::Interrupted)),
        reply = session.client.raw(method.clone(), &path, headers, body) => reply?,
    };
    if include {
        session.print(&head(&reply))?;
    }
    if !reply.status.is_success() {
        return Err(failed(session, &method, &path, reply).await?);
    }
    // On a terminal somebody reads; everywhere else a program does, and gets what the node sent.
    match session.terminal.stdout_is_terminal && is_of_type(&reply.headers, "application/json") {
        true => {
            let body = whole(session, reply).await?;
            print_json(session, &body)
        }
        false => stream(session, reply).await,
    }
}

fn request(session: &mut Session<'_>, args: ApiArgs) -> Result<Request, CliError> {
    let usage = |message: String| CliError::new(Exit::Usage, message);
    let (method, path) = match args.second {
        Some(path) => (Some(args.first), path),
        None => (args.method, args.first),
    };
    let has_body = args.input.is_some() || !(args.texts.is_empty() && args.values.is_empty());
    let method = match method {
        Some(name) => Method::from_bytes(name.to_ascii_uppercase().as_bytes()).map_err(|_| {
            usage(format!("{name:?} is not a method")).hint("write GET, POST, PUT, PATCH or DELETE")
        })?,
        None if has_body => Method::POST,
        None => Method::GET,
    };
    let mut path = checked_path(&path)?;
    let mut fields = Map::new();
    for (key, value) in args.texts.into_iter().chain(args.values) {
        if fields.insert(key.clone(), value).is_some() {
            return Err(usage(format!("the field {key:?} is given twice"))
                .hint(format!("for a list write -F '{key}=[\"one\", \"two\"]'")));
        }
    }
    let mut headers = HeaderMap::new();
    for (name, value) in args.headers {
        headers.append(name, value);
    }
    let body = if let Some(file) = &args.input {
        Some(read_input(session, file)?)
    } else if fields.is_empty() {
        None
    } else if method == Method::GET || method == Method::HEAD {
        let pairs: Vec<String> = fields.iter().map(|(key, value)| query_pair(key, value)).collect();
        path.push(if path.contains('?') { '&' } else { '?' });
        path.push_str(&pairs.join("&"));
        None
    } else {
        Some(Bytes::from(Value::Object(fields).to_string()))
    };
    if body.is_some() {
        headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    }
    Ok(Request { method, path, headers, body: body.unwrap_or_default() })
}

/// With the slash that it begins with, if that was left out.
fn checked_path(path: &str) -> Result<String, CliError> {
    let wrong = |hint: &str| {
        CliError::new(Exit::Usage, format!("{path:?} is not the path of an endpoint")).hint(hint)
    };
    if path.contains("://") {
        return Err(wrong("name the node with --host, and the path only here, such as /v1/nodes"));
    }
    let slashed = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let is_plain = slashed.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if !is_plain || slashed.parse::<PathAndQuery>().is_err() {
        return Err(wrong("write other characters as %XX, such as %20 for a space and %23 for #"));
    }
    Ok(slashed)
}

fn query_pair(key: &str, value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    format!("{}={}", encode(key), encode(&text))
}

fn read_input(session: &mut Session<'_>, file: &Path) -> Result<Bytes, CliError> {
    let is_stdin = file == Path::new("-");
    let name = if is_stdin { "standard input".to_owned() } else { file.display().to_string() };
    let mut body = Vec::new();
    // One more, to tell what is too long from what just fits.
    let limit = INPUT_MAX_BYTES as u64 + 1;
    let read = match is_stdin {
        true => (&mut session.terminal.stdin).take(limit).read_to_end(&mut body),
        false => std::fs::File::open(file).and_then(|opened| opened.take(limit).read_to_end(&mut body)),
    };
    read.map_err(|error| CliError::new(Exit::Usage, format!("cannot read {name}: {error}")))?;
    match body.len() > INPUT_MAX_BYTES {
        true => Err(CliError::new(
            Exit::Usage,
            format!("{name} has more than the limit of {INPUT_MAX_BYTES} bytes"),
        )
        .hint("is it the right one?")),
        false => Ok(body.into()),
    }
}

/// `HTTP/1.1 200 OK`, the headers, and an empty line.
fn head(reply: &RawReply) -> String {
    let mut text = format!("{:?} {}\n", reply.version, reply.status);
    for (name, value) in &reply.headers {
        text.push_str(&format!("{name}: {}\n", output::one_line(&String::from_utf8_lossy(value.as_bytes()))));
    }
    text + "\n"
}

fn is_of_type(headers: &HeaderMap, media_type: &str) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case(media_type)
}

/// Prints the body as it comes. A watch whose last line is an error has failed.
async fn stream(session: &mut Session<'_>, mut reply: RawReply) -> Result<(), CliError> {
    let is_watch = is_of_type(&reply.headers, "application/x-ndjson");
    let mut last_line = Vec::new();
    while let Some(bytes) = next(session, &mut reply).await? {
        session.terminal.print_bytes(&bytes)?;
        if is_watch {
            keep_last_line(&mut last_line, &bytes);
        }
    }
    match serde_json::from_slice::<WatchEnd>(&last_line) {
        Ok(WatchEnd { error }) => Err(error.into()),
        Err(_) => Ok(()),
    }
}

/// Adds `bytes`, and forgets all lines but the last; of a long line its end, which is then no error.
fn keep_last_line(line: &mut Vec<u8>, bytes: &[u8]) {
    line.extend_from_slice(bytes);
    let end = line.strip_suffix(b"\n").unwrap_or(line);
    let begin = end.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    line.drain(..begin.max(line.len().saturating_sub(LAST_LINE_MAX_BYTES)));
}

async fn next(session: &mut Session<'_>, reply: &mut RawReply) -> Result<Option<Bytes>, CliError> {
    tokio::select! {
        biased;
        () = &mut session.interrupt => Err(CliError::quiet(Exit::Interrupted)),
        bytes = reply.chunk() => Ok(bytes?),
    }
}

async fn whole(session: &mut Session<'_>, mut reply: RawReply) -> Result<Vec<u8>, CliError> {
    let mut body = Vec::new();
    while let Some(bytes) = next(session, &mut reply).await? {
        body.extend_from_slice(&bytes);
        if body.len() > REPLY_MAX_BYTES {
            return Err(CliError::new(
                Exit::Failed,
                format!("the reply has more than {REPLY_MAX_BYTES} bytes"),
            )
            .hint("write it to a file: it is taken as it comes then"));
        }
    }
    Ok(body)
}

fn print_json(session: &mut Session<'_>, body: &[u8]) -> Result<(), CliError> {
    match serde_json::from_slice::<Value>(body) {
        Ok(value) => session.print(&output::json(&value)),
        Err(_) => session.terminal.print_bytes(body),
    }
}

/// Prints the body, and gives the error that it is.
async fn failed(
    session: &mut Session<'_>,
    method: &Method,
    path: &str,
    reply: RawReply,
) -> Result<CliError, CliError> {
    let (status, headers) = (reply.status, reply.headers.clone());
    let body = whole(session, reply).await?;
    match session.terminal.stdout_is_terminal {
        true => print_json(session, &body)?,
        false => session.terminal.print_bytes(&body)?,
    }
    let mut error = match serde_json::from_slice::<ApiError>(&body) {
        Ok(error) => CliError::from(error),
        Err(_) => CliError::new(exit_of(status), format!("the node answered {status}")),
    };
    let id = headers.get("x-request-id").and_then(|id| id.to_str().ok());
    error.request_id = id.map(str::to_owned);
    if let Some(hint) = hint(method, path, status) {
        error.hint = Some(hint);
    }
    Ok(error)
}

/// For replies that are not one of our errors. 503 says "not ready" as well as "no quorum", so it is a failure like any other.
fn exit_of(status: StatusCode) -> Exit {
    match status {
        StatusCode::BAD_REQUEST
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE => Exit::Usage,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Exit::Denied,
        _ => Exit::Failed,
    }
}

/// The endpoints of this version with their methods, as the OpenAPI document has them: `/v1/nodes/{node}`, `["GET", ...]`.
pub(super) fn endpoints() -> Vec<(String, Vec<String>)> {
    let document: Value = serde_json::from_slice(&openapi::json()).expect("a generated document is JSON");
    let paths = document["paths"].as_object().cloned().unwrap_or_default();
    let methods = |item: &Value| {
        let methods = item.as_object().into_iter().flat_map(Map::keys);
        methods.map(|method| method.to_ascii_uppercase()).collect()
    };
    paths.iter().map(|(path, item)| (path.clone(), methods(item))).collect()
}

/// What the endpoint's path is with the parts of `path` in the places that are left open; `None` if their numbers of parts differ.
fn filled(endpoint: &str, path: &str) -> Option<String> {
    let (open, parts): (Vec<&str>, Vec<&str>) = (endpoint.split('/').collect(), path.split('/').collect());
    let fill = |(open, part): (&&str, &&str)| {
        if open.starts_with('{') { (*part).to_owned() } else { (*open).to_owned() }
    };
    (open.len() == parts.len()).then(|| open.iter().zip(&parts).map(fill).collect::<Vec<_>>().join("/"))
}

/// What to do about a path that is no endpoint, or a method that it does not take.
fn hint(method: &Method, path: &str, status: StatusCode) -> Option<String> {
    let path = path.split('?').next().unwrap_or(path);
    let endpoints = endpoints();
    let of_path = endpoints.iter().find(|(endpoint, _)| filled(endpoint, path).as_deref() == Some(path));
    match (of_path, status) {
        (Some((_, methods)), StatusCode::METHOD_NOT_ALLOWED) if !methods.contains(&method.to_string()) => {
            Some(format!("it takes {}: longshore api -X {} {path}", methods.join(", "), methods[0]))
        }
        (None, StatusCode::NOT_FOUND) => {
            let list = "`longshore api /v1/openapi.json` lists the endpoints";
            Some(
                most_alike(path, &endpoints)
                    .map_or(list.to_owned(), |alike| format!("did you mean {alike}? {list}")),
            )
        }
        _ => None,
    }
}

fn most_alike(path: &str, endpoints: &[(String, Vec<String>)]) -> Option<String> {
    let versioned = format!("/v1{path}");
    let mut best: Option<(f64, String)> = None;
    for written in [path.trim_end_matches('/'), versioned.trim_end_matches('/')] {
        for (endpoint, _) in endpoints {
            let meant = filled(endpoint, written).unwrap_or_else(|| endpoint.clone());
            let likeness = strsim::normalized_damerau_levenshtein(written, &meant);
            if likeness >= SIMILAR && best.as_ref().is_none_or(|(best, _)| likeness > *best) {
                best = Some((likeness, meant));
            }
        }
    }
    best.map(|(_, meant)| meant)
}
