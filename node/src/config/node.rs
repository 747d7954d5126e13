//! Typed configuration of a node, and the defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use longshore_model::control::RingShape;
use longshore_raft::model::membership::WEIGHT_MAX;
use longshore_raft::model::ring::GroupCount;
use longshore_raft::model::ring::schedule::DEATH_PAUSE_MS;

use super::addresses::{self, Advertise};
use super::error::{ConfigError, Problem, Problems};
use super::host::Host;
use super::kept::KEPT;
use super::keys;
use super::layers::{Layer, Settings, Source, Value, Variables};
use super::{names, units};
use crate::api::limits::ApiLimits;
use crate::logging::LogFilter;

/// Name of the API socket in the data folder.
pub const SOCKET_NAME: &str = "longshore.sock";

/// Most bytes of a token file; a token has about a hundred.
const TOKEN_FILE_MAX_BYTES: u64 = 4096;

pub(super) const NO_DATA_DIR: &str = "there is no home folder to keep data in; name a folder with --data-dir";

/// What an engine is given to do at once if nobody says otherwise: dockerd itself fetches three layers at a time. And at most.
const DOCKER_OPERATIONS: usize = 4;
const DOCKER_OPERATIONS_MAX: usize = 256;

/// Most peers to ask when joining; a few are enough, since any of them knows the rest.
const PEERS_MAX: usize = 64;

/// Something that must not be shown. Its `Debug` says nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
    /// The secret itself. Must not reach a log, an error or a process argument.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(text))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone)]
pub struct LogConfig {
    pub format: LogFormat,
    pub filter: LogFilter,
}

/// What `init`, `join` and `run` need to know.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Absolute.
    pub data_dir: PathBuf,
    /// Checked. On `run` it counts only if it was given: the node has a name already.
    pub name: String,
    /// UDP. Port 0: the system chooses.
    pub listen: SocketAddr,
    /// What the other nodes are told. Port 0: the port as bound.
    pub advertise: SocketAddr,
    /// TCP, loopback; `None`: the unix socket only.
    pub api: Option<SocketAddr>,
    /// The engine's socket; `None`: no engine.
    pub docker: Option<PathBuf>,
    pub zone: Option<String>,
    pub region: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// Share of the ring relative to other nodes'; 0 holds no data. None: by the host's memory.
    pub weight: Option<u32>,
    /// Of the fleet that `init` makes.
    pub ring: RingShape,
    /// How long a node has to be dead before its data is copied to others.
    pub death_pause: Duration,
    /// Bytes a second, of data that is copied to other nodes.
    pub copy_rate: usize,
    /// Pieces of operations that the engine carries out at once.
    pub docker_operations: usize,
    /// Bytes of one build context at most, and of all that are kept.
    pub build_context: usize,
    pub build_contexts: usize,
    /// Bytes of the data's disk that are not for them. None: by the disk's size.
    pub disk_floor: Option<usize>,
    /// How long ended operations are in this node's history.
    pub history_keep: Duration,
    pub log: LogConfig,
    pub api_limits: ApiLimits,
    /// Names of the settings that were given somewhere, as opposed to being defaults.
    pub given: BTreeSet<&'static str>,
    /// Of those, what the node needs again when it runs again.
    pub keep: BTreeMap<&'static str, String>,
    /// What is odd about the configuration; to be logged.
    pub warnings: Vec<String>,
}

impl NodeConfig {
    /// Where the API socket is.
    pub fn socket_path(&self) -> PathBuf {
        self.data_dir.join(SOCKET_NAME)
    }

    /// The engine's address as people write it.
    pub fn docker_endpoint(&self) -> Option<String> {
        self.docker.as_ref().map(|path| format!("unix://{}", path.display()))
    }
}

/// A node to ask for admission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress {
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    pub port: u16,
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// What `join` needs besides.
#[derive(Debug, Clone)]
pub struct JoinConfig {
    pub token: Secret,
    /// At least one, at most 64.
    pub peers: Vec<PeerAddress>,
    /// How long to try when none can be reached.
    pub timeout: Duration,
}

/// Values read one by one; `None` where nothing was given or the value is wrong.
struct Parsed {
    data_dir: Option<PathBuf>,
    name: Option<String>,
    listen: Option<SocketAddr>,
    advertise: Option<Advertise>,
    api: Option<Option<SocketAddr>>,
    docker: Option<Option<PathBuf>>,
    zone: Option<String>,
    region: Option<String>,
    weight: Option<u32>,
    groups: Option<GroupCount>,
    replication: Option<u8>,
    death_pause: Option<Duration>,
    copy_rate: Option<usize>,
    docker_operations: Option<usize>,
    build_context: Option<usize>,
    build_contexts: Option<usize>,
    disk_floor: Option<usize>,
    history_keep: Option<Duration>,
    labels: Option<BTreeMap<String, String>>,
    log_format: Option<LogFormat>,
    log_filter: Option<LogFilter>,
    peers: Option<Vec<PeerAddress>>,
    join_timeout: Option<Duration>,
    api_limits: ApiLimits,
}

struct Reader<'a> {
    values: &'a Layer,
    problems: &'a mut Problems,
}

impl Reader<'_> {
    fn text<T>(&mut self, name: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let (value, at) = self.values.get(keys::find(name).name)?;
        let Value::Text(text) = value else { return None };
        self.problems.take(at, parse(text))
    }

    fn path(&mut self, name: &'static str) -> Option<PathBuf> {
        let (value, at) = self.values.get(keys::find(name).name)?;
        self.problems.take(at, absolute(&value.to_string(), at))
    }

    fn all(&mut self) -> Parsed {
        let checked =
            |check: fn(&str) -> Result<(), String>| move |text: &str| check(text).map(|()| text.to_owned());
        let defaults = ApiLimits::default();
        Parsed {
            data_dir: self.path("data_dir"),
            name: self.text("name", checked(names::check_node_name)),
            listen: self.text("listen", addresses::parse_listen),
            advertise: self.text("advertise", addresses::parse_advertise),
            api: self.text("api", addresses::parse_api),
            docker: self.text("docker", addresses::parse_docker),
            zone: self.text("zone", checked(names::check_zone)),
            region: self.text("region", checked(names::check_region)),
            weight: self.text("weight", |text| Ok(count(text, 0, WEIGHT_MAX as usize)? as u32)),
            groups: self.text("ring.groups", |text| one_of(text, &GROUPS, |n| GroupCount::new(n).ok())),
            replication: self.text("ring.replication", |text| one_of(text, &REPLICATIONS, |n| Some(n as u8))),
            death_pause: self.text("ring.death_pause", |text| between(text, MIN_PAUSE, MAX_PAUSE)),
            copy_rate: self.text("ring.copy_rate", |text| size(text, COPY_RATE_MIN, COPY_RATE_MAX)),
            docker_operations: self
                .text("limits.docker_operations", |text| count(text, 1, DOCKER_OPERATIONS_MAX)),
            build_context: self
                .text("limits.build_context", |text| size(text, BUILD_CONTEXT_MIN, BUILD_CONTEXT_MAX)),
            build_contexts: self
                .text("limits.build_contexts", |text| size(text, BUILD_CONTEXT_MIN, BUILD_CONTEXT_MAX)),
            disk_floor: self.text("limits.disk_floor", |text| size(text, DISK_FLOOR_MIN, BUILD_CONTEXT_MAX)),
            history_keep: self.text("history.keep", history_keep),
            labels: self.labels(),
            log_format: self.text("log.format", parse_log_format),
            log_filter: self.text("log.level", LogFilter::parse),
            peers: self.peers(),
            join_timeout: self.text("join.timeout", |text| between(text, MIN_TIMEOUT, MAX_TIMEOUT)),
            api_limits: ApiLimits {
                connections_max: self
                    .text("limits.api_connections", |text| count(text, 1, 65_536))
                    .unwrap_or(defaults.connections_max),
                requests_max: self
                    .text("limits.api_requests", |text| count(text, 1, 65_536))
                    .unwrap_or(defaults.requests_max),
                body_max_bytes: self
                    .text("limits.api_body", |text| size(text, 1 << 10, 64 << 20))
                    .unwrap_or(defaults.body_max_bytes),
                header_timeout: self
                    .text("limits.api_header_timeout", |text| between(text, MIN_TIMEOUT, MAX_TIMEOUT))
                    .unwrap_or(defaults.header_timeout),
                body_timeout: self
                    .text("limits.api_body_timeout", |text| between(text, MIN_TIMEOUT, MAX_TIMEOUT))
                    .unwrap_or(defaults.body_timeout),
                ..defaults
            },
        }
    }

    fn labels(&mut self) -> Option<BTreeMap<String, String>> {
        let (Value::Table(labels), at) = self.values.get("labels")? else { return None };
        let wrong = labels.iter().find_map(|(key, value)| {
            names::check_label_key(key).and_then(|()| names::check_label_value(value)).err()
        });
        let too_many = format!("{} labels are over the limit of {}", labels.len(), names::LABELS_MAX);
        let wrong = wrong.or((labels.len() > names::LABELS_MAX).then_some(too_many));
        self.problems.take(at, wrong.map_or_else(|| Ok(labels.clone()), Err))
    }

    fn peers(&mut self) -> Option<Vec<PeerAddress>> {
        let (Value::List(peers), at) = self.values.get("join.peers")? else { return None };
        if peers.len() > PEERS_MAX {
            let message =
                format!("{} peers are over the limit of {PEERS_MAX}; a few are enough", peers.len());
            return self.problems.take(at, Err(message));
        }
        self.problems.take(at, peers.iter().map(|peer| addresses::parse_peer(peer)).collect())
    }
}

/// Shortest and longest of the time limits that can be set: below, ordinary requests fail; above, there is no limit.
const MIN_TIMEOUT: Duration = Duration::from_millis(100);
const MAX_TIMEOUT: Duration = Duration::from_secs(600);

/// Half a gigabit of the network: the rest is for clients.
const COPY_RATE: usize = 64 << 20;
const COPY_RATE_MIN: usize = 1 << 20;
const COPY_RATE_MAX: usize = 100 << 30;

/// A folder of sources with some binaries, and a few of them. An engine unpacks each beside it.
const BUILD_CONTEXT: usize = 512 << 20;
const BUILD_CONTEXTS: usize = 2 << 30;
const BUILD_CONTEXT_MIN: usize = 64 << 10;
const BUILD_CONTEXT_MAX: usize = 1 << 40;
/// Less, and a segment of the log may find no room.
const DISK_FLOOR_MIN: usize = 64 << 20;

/// Shorter, and a reboot copies data; longer, and a second death is likelier.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(7 * 24 * 3600);
/// As long as groups keep operations; longer takes space on every node.
const HISTORY_KEEP: &str = "24h";
const HISTORY_KEEP_MIN: Duration = Duration::from_secs(3600);
const HISTORY_KEEP_MAX: Duration = Duration::from_secs(90 * 24 * 3600);
const GROUPS: [u32; 4] = [32, 64, 128, 256];
const REPLICATIONS: [u32; 3] = [1, 3, 5];

fn between(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let duration = units::parse_duration(text)?;
    if (least..=most).contains(&duration) {
        return Ok(duration);
    }
    let (least, most) = (units::format_duration(least), units::format_duration(most));
    Err(format!("{text} is not between {least} and {most}"))
}

/// As [`between`], with bounds as people write them: 90 days have no short form otherwise.
fn history_keep(text: &str) -> Result<Duration, String> {
    let duration = units::parse_duration(text)?;
    let fits = (HISTORY_KEEP_MIN..=HISTORY_KEEP_MAX).contains(&duration);
    fits.then_some(duration).ok_or_else(|| format!("{text} is not between 1h and 90d"))
}

fn count(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let number = text.trim().parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("{text:?} is not a whole number between {least} and {most}"))
}

/// One of a few numbers.
fn one_of<T>(text: &str, numbers: &[u32], make: impl Fn(u32) -> Option<T>) -> Result<T, String> {
    let number = text.trim().parse().ok().filter(|number| numbers.contains(number)).and_then(make);
    number.ok_or_else(|| {
        let all: Vec<String> = numbers.iter().map(u32::to_string).collect();
        format!("{text:?} is none of {}", all.join(", "))
    })
}

fn size(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let bytes = units::parse_size(text)?;
    if (least..=most).contains(&bytes) {
        return Ok(bytes);
    }
    Err(format!("{text} is not between {} and {}", units::format_size(least), units::format_size(most)))
}

fn parse_log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("{text:?} is not a log format; write text or json")),
    }
}

/// A path from a file is relative to that file's folder, any other one to the working folder.
fn absolute(text: &str, at: &Source) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("an empty path".to_owned());
    }
    let path = match at {
        Source::File { path, .. } => path.parent().unwrap_or(Path::new("")).join(text),
        _ => PathBuf::from(text),
    };
    std::path::absolute(&path).map_err(|error| format!("{text:?} is not a path: {error}"))
}

pub(super) fn check_values(values: &Layer, problems: &mut Problems) {
    Reader { values, problems }.all();
}

pub(super) fn default_data_dir(variables: &Variables, host: &dyn Host) -> Option<PathBuf> {
    if host.is_root() {
        return Some(PathBuf::from("/var/lib/longshore"));
    }
    let folder = |name: &str| variables.get(name).filter(|path| path.starts_with('/')).map(PathBuf::from);
    let data_home = folder("XDG_DATA_HOME").or_else(|| Some(folder("HOME")?.join(".local/share")));
    data_home.map(|path| path.join("longshore"))
}

/// A name made of the host name, whatever that is.
fn default_name(host: &dyn Host) -> String {
    let name = names::name_of_host(&host.name());
    if names::check_node_name(&name).is_ok() {
        return name;
    }
    let name = format!("node-{name}");
    let name = name.trim_end_matches('-');
    name.chars().take(names::NAME_MAX_CHARS).collect()
}

/// Fills in the defaults, so far as there are any; in the order in which they build on each other.
pub(super) fn add_defaults(values: &mut Layer, variables: &Variables, host: &dyn Host) {
    let api = ApiLimits::default();
    let mut add = |name: &'static str, text: String| {
        values.entry(keys::find(name).name).or_insert((Value::Text(text), Source::Default));
    };
    if let Some(data_dir) = default_data_dir(variables, host) {
        add("data_dir", data_dir.display().to_string());
    }
    add("name", default_name(host));
    add("listen", format!("0.0.0.0:{}", addresses::DEFAULT_PORT));
    add("docker", "unix:///var/run/docker.sock".to_owned());
    add("log.format", "text".to_owned());
    add("log.level", "info".to_owned());
    add("join.timeout", "10s".to_owned());
    let ring = RingShape::default();
    add("ring.groups", ring.groups.get().to_string());
    add("ring.replication", ring.replication.to_string());
    add("ring.death_pause", units::format_duration(Duration::from_millis(DEATH_PAUSE_MS)));
    add("ring.copy_rate", units::format_size(COPY_RATE));
    add("limits.docker_operations", DOCKER_OPERATIONS.to_string());
    add("limits.build_context", units::format_size(BUILD_CONTEXT));
    add("limits.build_contexts", units::format_size(BUILD_CONTEXTS));
    add("history.keep", HISTORY_KEEP.to_owned());
    add("limits.api_connections", api.connections_max.to_string());
    add("limits.api_requests", api.requests_max.to_string());
    add("limits.api_body", units::format_size(api.body_max_bytes));
    add("limits.api_header_timeout", units::format_duration(api.header_timeout));
    add("limits.api_body_timeout", units::format_duration(api.body_timeout));
    let listen = values.get("listen").and_then(|(value, _)| addresses::parse_listen(&value.to_string()).ok());
    if let Some(listen) = listen {
        let mut add = |name: &'static str, address: SocketAddr| {
            values
                .entry(keys::find(name).name)
                .or_insert((Value::Text(address.to_string()), Source::Default));
        };
        add("api", addresses::default_api(listen));
        // Where there is none, it is missed when it is needed.
        if let Ok(advertise) = addresses::resolve_advertise(None, listen, host) {
            add("advertise", advertise);
        }
    }
}

impl Settings {
    /// The node's configuration, or everything that is wrong with it.
    pub fn node_config(&self, host: &dyn Host) -> Result<NodeConfig, ConfigError> {
        let mut problems = Problems::default();
        let parsed = Reader { values: &self.values, problems: &mut problems }.all();
        if self.get("data_dir").is_none() {
            problems.push(Problem::Missing(NO_DATA_DIR.to_owned()));
        }
        let config = self.assemble(parsed, host, &mut problems);
        problems.finish(config)
    }

    pub(super) fn data_dir_value(&self) -> Result<PathBuf, ConfigError> {
        let mut problems = Problems::default();
        let path = Reader { values: &self.values, problems: &mut problems }.path("data_dir");
        if self.get("data_dir").is_none() {
            problems.push(Problem::Missing(NO_DATA_DIR.to_owned()));
        }
        problems.finish(path)
    }

    fn assemble(&self, parsed: Parsed, host: &dyn Host, problems: &mut Problems) -> Option<NodeConfig> {
        let listen = parsed.listen?;
        let advertise = self.advertise(parsed.advertise.as_ref(), listen, host, problems);
        let given: BTreeSet<&'static str> =
            self.values.keys().copied().filter(|name| self.is_given(name)).collect();
        let keep = KEPT.iter().filter(|name| given.contains(*name));
        let keep = keep.filter_map(|name| Some((*name, self.get(name)?.0.to_string()))).collect();
        Some(NodeConfig {
            data_dir: parsed.data_dir?,
            name: parsed.name?,
            listen,
            advertise: advertise?,
            api: parsed.api?,
            docker: parsed.docker?,
            zone: parsed.zone,
            region: parsed.region,
            weight: parsed.weight,
            ring: RingShape { groups: parsed.groups?, replication: parsed.replication? },
            death_pause: parsed.death_pause?,
            copy_rate: parsed.copy_rate?,
            docker_operations: parsed.docker_operations?,
            build_context: parsed.build_context?,
            // Beside those that were sent there is room for one that this node has to build.
            build_contexts: parsed.build_contexts?.max(2 * parsed.build_context?),
            disk_floor: parsed.disk_floor,
            history_keep: parsed.history_keep?,
            labels: parsed.labels.unwrap_or_default(),
            log: LogConfig { format: parsed.log_format?, filter: parsed.log_filter? },
            api_limits: parsed.api_limits,
            given,
            keep,
            warnings: self.warnings.clone(),
        })
    }

    fn advertise(
        &self,
        parsed: Option<&Advertise>,
        listen: SocketAddr,
        host: &dyn Host,
        problems: &mut Problems,
    ) -> Option<SocketAddr> {
        match (self.get("advertise"), parsed) {
            // What is wrong with it has been said.
            (Some(_), None) => None,
            (Some((_, at)), parsed) => problems.take(at, addresses::resolve_advertise(parsed, listen, host)),
            (None, _) => match addresses::resolve_advertise(None, listen, host) {
                Ok(address) => Some(address),
                Err(message) => {
                    problems.push(Problem::Missing(message));
                    None
                }
            },
        }
    }

    /// What `join` needs besides; reads the token from `stdin` where the file is called `-`.
    pub fn join_config(&self, stdin: &mut dyn Read) -> Result<JoinConfig, ConfigError> {
        let mut problems = Problems::default();
        let parsed = Reader { values: &self.values, problems: &mut problems }.all();
        let token = self.token(stdin, &mut problems);
        let missing_peers =
            parsed.peers.as_ref().is_some_and(Vec::is_empty) || self.get("join.peers").is_none();
        if missing_peers {
            problems.push(Problem::Missing("no node to ask; name at least one as HOST[:PORT]".to_owned()));
        }
        let config =
            (|| Some(JoinConfig { token: token?, peers: parsed.peers?, timeout: parsed.join_timeout? }))();
        problems.finish(config)
    }

    fn token(&self, stdin: &mut dyn Read, problems: &mut Problems) -> Option<Secret> {
        let (token, file) = (self.get("join.token"), self.get("join.token_file"));
        let from_file = match (token, file) {
            (None, None) => {
                let message = "no token; give one with --token-file, --token or LONGSHORE_JOIN_TOKEN \
                               (`longshore token create` on a node makes one)";
                problems.push(Problem::Missing(message.to_owned()));
                return None;
            }
            (Some((_, token_at)), Some((_, file_at))) if rank(token_at) == rank(file_at) => {
                let message = format!("the token is given twice, by {token_at} and by {file_at}");
                return problems.take(file_at, Err(message));
            }
            (Some((_, token_at)), Some((_, file_at))) => rank(file_at) > rank(token_at),
            (token, _) => token.is_none(),
        };
        if !from_file {
            let (value, _) = token.expect("either is there");
            return Some(Secret::new(value.to_string().trim()));
        }
        let (value, at) = file.expect("either is there");
        problems.take(at, read_token(&value.to_string(), at, stdin))
    }
}

/// Layers in order: of two ways to say the same, the one in the higher layer counts.
fn rank(source: &Source) -> u8 {
    match source {
        Source::Flag(_) => 3,
        Source::Variable(_) => 2,
        Source::File { .. } => 1,
        Source::Default => 0,
    }
}

fn read_token(name: &str, at: &Source, stdin: &mut dyn Read) -> Result<Secret, String> {
    let mut text = String::new();
    let read = if name == "-" && *at == Source::Flag("--token-file") {
        stdin.take(TOKEN_FILE_MAX_BYTES).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(absolute(name, at)?);
        file.and_then(|file| file.take(TOKEN_FILE_MAX_BYTES).read_to_string(&mut text))
    };
    read.map_err(|error| format!("cannot read the token from {name}: {error}"))?;
    match text.trim() {
        "" => Err(format!("there is no token in {name}")),
        token => Ok(Secret::new(token)),
    }
}
