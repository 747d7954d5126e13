//! Containers of the real engine: their lives, what there is, and what happens.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, EventsOptionsBuilder, InspectContainerOptions,
    ListContainersOptionsBuilder, ListVolumesOptions, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
    StartContainerOptions, StopContainerOptionsBuilder, WaitContainerOptionsBuilder,
};
use futures_util::StreamExt;

use super::super::classify::{self, Subject};
use super::super::connection::Connection;
use super::super::{Changed, Container, ContainerState, EngineError, ListedVolume, NewContainer, OnChanged};
use super::{BollardEngine, events, shapes};

/// Docker's own, for a container that was given none.
const GRACE: Duration = Duration::from_secs(10);
/// How long a program for another processor is watched: without an emulator it fails before its first instruction.
const FOREIGN_PROGRAM_WATCHED: Duration = Duration::from_secs(1);
/// What the kernel says to such a program.
const NO_EXEC: &str = "exec format error";

/// An error if no container can have this name or id. It becomes part of a path.
pub(super) fn checked(key: &str) -> Result<&str, EngineError> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    match key.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()) && key.bytes().all(fine) {
        true => Ok(key),
        false => Err(EngineError::NoSuchContainer { container: key.to_owned() }),
    }
}

impl BollardEngine {
    pub(super) async fn create_container(&self, container: &NewContainer) -> Result<String, EngineError> {
        let connection = Connection::open(&self.socket, self.limits).await?;
        let image = container.spec.image.familiar();
        let subject = Subject { container: &container.name, image: &image };
        let options = CreateContainerOptionsBuilder::new().name(&container.name).build();
        let create = connection.docker.create_container(Some(options), shapes::to_be_made(container));
        Ok(self.demand(subject, self.limits.silence, create).await?.id)
    }

    pub(super) async fn start_container(&self, key: &str) -> Result<(), EngineError> {
        let connection = Connection::open(&self.socket, self.limits).await?;
        let start = connection.docker.start_container(checked(key)?, None::<StartContainerOptions>);
        self.demand(Subject::of(key), self.limits.silence, start).await?;
        self.runs_here(&connection, key).await
    }

    /// Docker starts whatever it is told to. An error if the image is for another processor, and its program failed for that. With an
    /// emulator it does not.
    async fn runs_here(&self, connection: &Connection, key: &str) -> Result<(), EngineError> {
        let Some(found) = self.find(connection, key).await? else { return Ok(()) };
        let image = self.ask(connection.docker.inspect_image(found.image.as_deref().unwrap_or(key))).await?;
        let Some(arch) = image.and_then(|image| image.architecture).filter(|arch| !arch.is_empty()) else {
            return Ok(());
        };
        let host = self.ask(connection.docker.version()).await?.and_then(|version| version.arch);
        let Some(host) = host.filter(|host| *host != arch) else {
            return Ok(());
        };
        self.await_end(connection, key, FOREIGN_PROGRAM_WATCHED).await;
        let id = found.id.clone().unwrap_or_default();
        if !self.failed_to_begin(&id).await? {
            return Ok(());
        }
        let image = found.config.and_then(|config| config.image).unwrap_or_default();
        let detail = format!("it is for {arch}, and the engine's host is {host}");
        Err(EngineError::WrongPlatform { image, detail })
    }

    /// Whether a container is not up, or about to be restarted, and the last it wrote was the kernel's refusal.
    async fn failed_to_begin(&self, id: &str) -> Result<bool, EngineError> {
        // The wait may not have ended: its connection is of no more use.
        let connection = Connection::open(&self.socket, self.limits).await?;
        let state = self.find(&connection, id).await?.and_then(|found| found.state);
        if state.is_none_or(|state| shapes::state(&state) == ContainerState::Running) {
            return Ok(false);
        }
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail("1").build();
        let mut lines = Box::pin(connection.docker.logs(id, Some(options)));
        let reading = async {
            let mut said = String::new();
            while let Some(Ok(line)) = lines.next().await {
                said.push_str(&String::from_utf8_lossy(line.as_ref()));
            }
            Ok(said)
        };
        Ok(self.demand(Subject::of(id), self.limits.reply, reading).await?.contains(NO_EXEC))
    }

    /// Waits until a container has ended, so long at most.
    #[expect(clippy::disallowed_methods, reason = "the real implementation of the container-engine port")]
    async fn await_end(&self, connection: &Connection, key: &str, patience: Duration) {
        let options = WaitContainerOptionsBuilder::new().condition("not-running").build();
        let mut ended = Box::pin(connection.docker.wait_container(key, Some(options)));
        // How it ended, or why it can not be told, the look that follows shows.
        let _ = tokio::time::timeout(patience, ended.next()).await;
    }

    pub(super) async fn stop_container(&self, key: &str, grace: Option<Duration>) -> Result<(), EngineError> {
        let connection = Connection::open(&self.socket, self.limits).await?;
        let key = checked(key)?;
        let mut options = StopContainerOptionsBuilder::new();
        let waits = match grace {
            Some(grace) => {
                // Whole seconds, and not fewer than were asked for.
                let seconds = i32::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i32::MAX);
                options = options.t(seconds);
                grace
            }
            None => {
                let found = self.find(&connection, key).await?.and_then(|found| found.config);
                let own = found.and_then(|config| config.stop_timeout);
                own.and_then(|s| u64::try_from(s).ok()).map_or(GRACE, Duration::from_secs)
            }
        };
        let patience = self.limits.silence.saturating_add(waits);
        let docker = connection.docker.clone().with_timeout(patience.saturating_add(Duration::from_secs(1)));
        self.demand(Subject::of(key), patience, docker.stop_container(key, Some(options.build()))).await
    }

    pub(super) async fn remove_container(&self, key: &str, force: bool) -> Result<(), EngineError> {
        let connection = Connection::open(&self.socket, self.limits).await?;
        let Ok(key) = checked(key) else { return Ok(()) };
        let options = RemoveContainerOptionsBuilder::new().v(true).force(force).build();
        let remove = connection.docker.remove_container(key, Some(options));
        match self.demand(Subject::of(key), self.limits.silence, remove).await {
            Err(EngineError::NoSuchContainer { .. }) => Ok(()),
            Err(EngineError::Refused { detail }) if classify::is_being_removed(&detail) => {
                self.await_removal(&connection, key).await
            }
            removed => removed,
        }
    }

    /// Somebody else is taking it away.
    async fn await_removal(&self, connection: &Connection, key: &str) -> Result<(), EngineError> {
        let options = WaitContainerOptionsBuilder::new().condition("removed").build();
        let mut removed = Box::pin(connection.docker.wait_container(key, Some(options)));
        let waiting = async {
            let _ = removed.next().await;
            Ok(())
        };
        self.demand(Subject::of(key), self.limits.silence, waiting).await?;
        drop(removed);
        match self.find(connection, key).await? {
            None => Ok(()),
            Some(_) => Err(EngineError::Refused { detail: format!("container {key} can not be removed") }),
        }
    }

    /// All that the engine says of one container.
    pub(super) async fn find(
        &self,
        connection: &Connection,
        key: &str,
    ) -> Result<Option<ContainerInspectResponse>, EngineError> {
        let Ok(key) = checked(key) else { return Ok(None) };
        self.ask(connection.docker.inspect_container(key, None::<InspectContainerOptions>)).await
    }

    pub(super) async fn one_container(&self, key: &str) -> Result<Option<Container>, EngineError> {
        let connection = Connection::open(&self.socket, self.limits).await?;
        Ok(self.find(&connection, key).await?.map(shapes::container))
    }

    pub(super) async fn containers(&self) -> Result<Vec<Container>, EngineError> {
        let connection = Connection::open(&self.socket, self.limits).await?;
        let options = ListContainersOptionsBuilder::new().all(true).build();
        let listed = self.ask(connection.docker.list_containers(Some(options))).await?.unwrap_or_default();
        let mut containers = Vec::with_capacity(listed.len());
        for summary in listed {
            let id = summary.id.clone().unwrap_or_default();
            match shapes::listed_container(summary) {
                Some(container) => containers.push(container),
                // It may have gone meanwhile.
                None => containers.extend(self.find(&connection, &id).await?.map(shapes::container)),
            }
        }
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(containers)
    }

    pub(super) async fn volumes(&self) -> Result<Vec<ListedVolume>, EngineError> {
        let connection = Connection::open(&self.socket, self.limits).await?;
        let listed = self.ask(connection.docker.list_volumes(None::<ListVolumesOptions>)).await?;
        let listed = listed.and_then(|listed| listed.volumes).unwrap_or_default();
        let mut volumes: Vec<ListedVolume> = listed
            .into_iter()
            .map(|volume| ListedVolume { name: volume.name, driver: volume.driver })
            .collect();
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(volumes)
    }

    pub(super) async fn one_volume(&self, name: &str) -> Result<Option<ListedVolume>, EngineError> {
        let connection = Connection::open(&self.socket, self.limits).await?;
        // It becomes part of a path.
        let Ok(name) = checked(name) else { return Ok(None) };
        let found = self.ask(connection.docker.inspect_volume(name)).await?;
        Ok(found.map(|volume| ListedVolume { name: volume.name, driver: volume.driver }))
    }

    pub(super) async fn watch_events(&self, on_changed: OnChanged) -> Result<(), EngineError> {
        let connection = Connection::open(&self.socket, self.limits).await?;
        // The engine answers a listener before it listens, but keeps its last events: what happens after this moment of its own clock comes.
        let info = self.ask(connection.docker.info()).await?.unwrap_or_default();
        let mut options = EventsOptionsBuilder::new();
        if let Some(since) = info.system_time.as_deref().and_then(unix_time) {
            options = options.since(&format!("{}.{:09}", since.as_secs(), since.subsec_nanos()));
        }
        let types = vec!["container", "image", "volume"];
        let options = options.filters(&[("type", types)].into_iter().collect()).build();
        on_changed(Changed::Everything);
        let mut events = Box::pin(connection.docker.events(Some(options)));
        loop {
            match events.next().await {
                Some(Ok(event)) => events::subject(event).into_iter().for_each(|changed| on_changed(changed)),
                Some(Err(error)) => return Err(self.container_error(Subject::of("events"), error)),
                None => return Err(self.interrupted("it tells of no more events".to_owned())),
            }
        }
    }
}

/// Since 1970, of a time as the engine writes it: in the zone of its host.
pub(super) fn unix_time(text: &str) -> Option<Duration> {
    let (local, ahead_s) =
        match text.len().checked_sub("+02:00".len()).and_then(|at| text.split_at_checked(at)) {
            Some((local, zone)) if zone.starts_with(['+', '-']) => (local, offset_s(zone)?),
            _ => (text, 0),
        };
    let at: SystemTime = humantime::parse_rfc3339_weak(local).ok()?;
    let local = at.duration_since(UNIX_EPOCH).ok()?;
    let away = Duration::from_secs(ahead_s.unsigned_abs());
    if ahead_s < 0 { local.checked_add(away) } else { local.checked_sub(away) }
}

/// Seconds that a zone such as `-05:30` is ahead of UTC.
fn offset_s(zone: &str) -> Option<i64> {
    let (sign, time) = zone.split_at(1);
    let (hours, minutes) = time.split_once(':')?;
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    let ahead_s = (hours * 60 + minutes) * 60;
    Some(if sign == "-" { -ahead_s } else { ahead_s })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_the_zone_of_the_engines_host() {
        let utc = unix_time("2026-11-30T15:00:00.25Z").unwrap();
        assert_eq!(utc.subsec_millis(), 250);
        for same in
            ["2026-11-30T10:00:00.250-05:00", "2026-11-30T17:30:00.250000000+02:30", "2026-11-30 15:00:00.25"]
        {
            assert_eq!(unix_time(same), Some(utc), "{same}");
        }
        assert_eq!(unix_time("2026-11-30T17:00:00+02:00").unwrap().as_secs(), utc.as_secs());
        for bad in ["", "now", "2026-11-30T10:00:00+0x:00", "2026-11-30T10:00:00-05", "é:00"] {
            assert_eq!(unix_time(bad), None, "{bad}");
        }
    }
}
