//! Metrics of a step: one line for people, one JSON object for machines, TensorBoard events.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result};
use candlewick_algorithms::Metrics;

/// Everything measured in one step, by name.
#[derive(Debug, Clone, Default)]
pub struct Step {
    values: BTreeMap<String, f64>,
}

impl Step {
    /// Sets a value; what is not finite is left out.
    pub fn set(&mut self, name: impl Into<String>, value: f64) {
        if value.is_finite() {
            self.values.insert(name.into(), value);
        }
    }

    /// Adds a stage's metrics under `prefix/`.
    pub fn extend(&mut self, prefix: &str, metrics: &Metrics) {
        for (name, value) in metrics.iter() {
            self.set(format!("{prefix}/{name}"), value);
        }
    }

    /// A value.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.get(name).copied()
    }
}

/// Writes `metrics.jsonl` and TensorBoard events.
pub struct Recorder {
    file: File,
    events: Option<Events>,
}

impl Recorder {
    /// Opens the files of a run folder; a resumed run first cuts `metrics.jsonl` at `bytes`.
    pub fn open(folder: &Path, tensorboard: bool, bytes: Option<u64>) -> Result<Self> {
        let path = folder.join("metrics.jsonl");
        let open = || -> std::io::Result<File> {
            let mut file = OpenOptions::new().create(true).write(true).truncate(false).open(&path)?;
            file.set_len(bytes.unwrap_or(0))?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        let file = open().with_context(|| format!("{} cannot be written", path.display()))?;
        let events = tensorboard.then(|| Events::create(&folder.join("tensorboard"))).transpose()?;
        Ok(Self { file, events })
    }

    /// Appends a step.
    pub fn record(&mut self, step: usize, metrics: &Step) -> Result<()> {
        let mut object = serde_json::Map::new();
        object.insert("step".into(), step.into());
        object.extend(metrics.values.iter().map(|(name, value)| (name.clone(), (*value).into())));
        let line = serde_json::to_string(&object)? + "\n";
        self.file.write_all(line.as_bytes()).context("metrics.jsonl cannot be written")?;
        if let Some(events) = &mut self.events {
            events.scalars(step, &metrics.values)?;
        }
        Ok(())
    }

    /// Bytes of `metrics.jsonl` so far, once they are on disk.
    pub fn bytes(&mut self) -> Result<u64> {
        self.file.sync_all().context("metrics.jsonl cannot be written")?;
        Ok(self.file.stream_position()?)
    }
}

/// TensorBoard's event file: length-framed protocol-buffer records with masked CRC-32C sums.
///
/// The format is a dozen lines; the crates that write it bring a protocol-buffer compiler along.
struct Events {
    file: File,
}

impl Events {
    fn create(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        let path = folder.join(format!("events.out.tfevents.{:.0}.candlewick.{}", seconds(), std::process::id()));
        let file = File::create(&path).with_context(|| format!("{} cannot be written", path.display()))?;
        let mut events = Self { file };
        let mut version = Vec::new();
        double(&mut version, 1, seconds());
        bytes(&mut version, 3, b"brain.Event:2");
        events.frame(&version)?;
        Ok(events)
    }

    fn scalars(&mut self, step: usize, values: &BTreeMap<String, f64>) -> Result<()> {
        let mut summary = Vec::new();
        for (name, value) in values {
            let mut entry = Vec::new();
            bytes(&mut entry, 1, name.as_bytes());
            entry.push(0x15); // field 2, 32 bits: simple_value
            entry.extend((*value as f32).to_le_bytes());
            bytes(&mut summary, 1, &entry);
        }
        let mut event = Vec::new();
        double(&mut event, 1, seconds());
        event.push(0x10); // field 2, varint: step
        varint(&mut event, step as u64);
        bytes(&mut event, 5, &summary);
        self.frame(&event)
    }

    fn frame(&mut self, record: &[u8]) -> Result<()> {
        let length = (record.len() as u64).to_le_bytes();
        let mut frame = length.to_vec();
        frame.extend(masked_crc(&length).to_le_bytes());
        frame.extend(record);
        frame.extend(masked_crc(record).to_le_bytes());
        self.file.write_all(&frame).context("TensorBoard events cannot be written")
    }
}

fn seconds() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes(out: &mut Vec<u8>, field: u8, content: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, content.len() as u64);
    out.extend(content);
}

fn double(out: &mut Vec<u8>, field: u8, value: f64) {
    out.push(field << 3 | 1);
    out.extend(value.to_le_bytes());
}

/// CRC-32C (Castagnoli), rotated and offset as TFRecord files want it.
fn masked_crc(data: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for &byte in data {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CRC-32C of "123456789" is 0xe3069283 (RFC 3720, appendix B.4, has the polynomial's vectors).
    #[test]
    fn checksum_is_castagnoli() {
        assert_eq!(masked_crc(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn resuming_cuts_what_was_not_saved() {
        let folder = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::open(folder.path(), true, None).unwrap();
        let mut step = Step::default();
        step.set("a/b", 1.5);
        step.set("nan", f64::NAN);
        recorder.record(1, &step).unwrap();
        let bytes = recorder.bytes().unwrap();
        recorder.record(2, &step).unwrap();
        drop(recorder);
        Recorder::open(folder.path(), false, Some(bytes)).unwrap().record(2, &step).unwrap();
        let text = std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
        assert_eq!(text, "{\"step\":1,\"a/b\":1.5}\n{\"step\":2,\"a/b\":1.5}\n");
    }
}
