//! TensorBoard's event files: TFRecord frames around the few protocol buffer messages that scalars and pictures need.
//!
//! Formats: `tensorflow/core/lib/io/record_writer.h`, `tensorflow/core/util/event.proto` and
//! `tensorflow/core/framework/summary.proto`. The crates that write them have had no release for years.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Error;

/// A file of events, in the folder that TensorBoard is pointed at.
#[derive(Debug)]
pub struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// A new file in `folder`. What older files of the folder say of steps after `done` is void: TensorBoard drops it.
    pub fn create(folder: &Path, done: usize) -> Result<Self, Error> {
        fs::create_dir_all(folder).map_err(mgnt_weights::Error::io(folder))?;
        let now = seconds();
        // A start within the same second takes the next free name.
        let mut number = now as u64;
        let (file, path) = loop {
            let path = folder.join(format!("events.out.tfevents.{number:010}.mgnt"));
            match File::create_new(&path) {
                Ok(file) => break (file, path),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(mgnt_weights::Error::io(&path)(error).into()),
            }
        };
        let mut events = Self { file, path };
        events.write(&version(now))?;
        events.write(&start(now, done + 1))?;
        Ok(events)
    }

    /// Adds numbers of a step, by tag; tags are grouped by what stands before a slash.
    pub fn scalars(&mut self, step: usize, scalars: &[(String, f64)]) -> Result<(), Error> {
        let values = scalars.iter().map(|(tag, value)| scalar(tag, *value as f32)).collect();
        self.write(&summary(seconds(), step, values))
    }

    /// Adds a picture of a step.
    pub fn picture(
        &mut self,
        step: usize,
        tag: &str,
        png: &[u8],
        width: usize,
        height: usize,
    ) -> Result<(), Error> {
        self.write(&summary(seconds(), step, vec![picture(tag, png, width, height)]))
    }

    fn write(&mut self, event: &[u8]) -> Result<(), Error> {
        // One write a record, so that a reader sees it whole or not at all.
        self.file.write_all(&record(event)).map_err(mgnt_weights::Error::io(&self.path))?;
        Ok(())
    }
}

fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// Length and payload, each with its checksum.
fn record(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    let mut bytes = Vec::with_capacity(payload.len() + 16);
    bytes.extend(length);
    bytes.extend(masked(crc32c::crc32c(&length)).to_le_bytes());
    bytes.extend(payload);
    bytes.extend(masked(crc32c::crc32c(payload)).to_le_bytes());
    bytes
}

/// A checksum of data that may hold checksums.
fn masked(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// `Event.file_version`, which comes first in a file.
fn version(time: f64) -> Vec<u8> {
    let mut event = Message::new().double(1, time);
    event = event.bytes(3, b"brain.Event:2");
    event.0
}

/// `Event.session_log` with `SessionLog.START`: events of this step and later ones in older files are void.
fn start(time: f64, step: usize) -> Vec<u8> {
    Message::new().double(1, time).integer(2, step as u64).bytes(7, &Message::new().integer(1, 1).0).0
}

/// `Event.summary` of `Summary.value`s.
fn summary(time: f64, step: usize, values: Vec<Message>) -> Vec<u8> {
    let summary = values.iter().fold(Message::new(), |summary, value| summary.bytes(1, &value.0));
    Message::new().double(1, time).integer(2, step as u64).bytes(5, &summary.0).0
}

/// `Summary.Value` with `simple_value`.
fn scalar(tag: &str, value: f32) -> Message {
    Message::new().bytes(1, tag.as_bytes()).float(2, value)
}

/// `Summary.Value` with `image`, in three colours.
fn picture(tag: &str, png: &[u8], width: usize, height: usize) -> Message {
    let image = Message::new().integer(1, height as u64).integer(2, width as u64).integer(3, 3).bytes(4, png);
    Message::new().bytes(1, tag.as_bytes()).bytes(4, &image.0)
}

/// A protocol buffer message that grows field by field.
struct Message(Vec<u8>);

impl Message {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn integer(mut self, field: u32, value: u64) -> Self {
        self.key(field, 0);
        self.varint(value);
        self
    }

    fn double(mut self, field: u32, value: f64) -> Self {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u32, value: &[u8]) -> Self {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    fn float(mut self, field: u32, value: f32) -> Self {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn key(&mut self, field: u32, wire_type: u32) {
        self.varint(u64::from(field << 3 | wire_type));
    }

    /// Seven bits a byte, lowest first; the eighth says that more follow.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: f64 = 1_764_086_400.5;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Bytes that TensorBoard 2.21's own `RecordWriter` and protocol buffers give.
    #[test]
    fn records_are_those_of_tensorboard() {
        assert_eq!(
            hex(&record(&version(TIME))),
            "1800000000000000a37f4b2209000020a07449da411a0d627261696e2e4576656e743a32aeb11607"
        );
        assert_eq!(
            hex(&record(&start(TIME, 301))),
            "100000000000000095fbfe1809000020a07449da4110ad023a0208019d432af2"
        );
        let scalars = vec![scalar("train/loss_p1", 5.25), scalar("train/lambda", 0.5)];
        assert_eq!(
            hex(&record(&summary(TIME, 300, scalars))),
            "39000000000000008b0737f109000020a07449da4110ac022a2b0a140a0d747261696e2f6c6f73735f7031150000a8400a130a0c\
             747261696e2f6c616d626461150000003f1429f9f6"
        );
        assert_eq!(
            hex(&record(&summary(TIME, 300, vec![picture("samples", b"png", 3, 2)]))),
            "2600000000000000734fe30009000020a07449da4110ac022a180a160a0773616d706c6573220b0802100318032203706e672e15\
             f69b"
        );
    }

    #[test]
    fn a_start_in_the_same_second_takes_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = EventFile::create(folder.path(), 0).unwrap();
        let second = EventFile::create(folder.path(), 7).unwrap();
        assert_ne!(first.path, second.path);
        let before = fs::metadata(&first.path).unwrap().len();
        first.scalars(3, &[("a/b".into(), 1.0)]).unwrap();
        assert!(fs::metadata(&first.path).unwrap().len() > before);
    }
}
