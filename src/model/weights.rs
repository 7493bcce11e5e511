//! Reading and writing safetensors: single files or shards, mapped and not copied twice.
//!
//! Only safetensors is read. Files are written under a temporary name and renamed when complete.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::ops::View;

/// Largest shard that is written, in bytes.
const SHARD_BYTES: usize = 5_000_000_000;

/// Mapped safetensors files.
#[derive(Debug)]
pub struct Weights {
    files: Vec<(PathBuf, Mmap)>,
    by_name: HashMap<String, usize>,
}

impl Weights {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names, in a folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let (single, index) = (folder.join("model.safetensors"), folder.join("model.safetensors.index.json"));
        if single.is_file() {
            return Self::open_files(&[single]);
        }
        if !index.is_file() {
            let hint = if folder.join("pytorch_model.bin").exists() {
                ": pickled weights are not read, convert them to safetensors"
            } else {
                ""
            };
            bail!("{} holds neither `model.safetensors` nor `model.safetensors.index.json`{hint}", folder.display());
        }
        let text = std::fs::read_to_string(&index).with_context(|| format!("{} cannot be read", index.display()))?;
        let json: serde_json::Value =
            serde_json::from_str(&text).with_context(|| format!("{} is not valid JSON", index.display()))?;
        let map = json
            .get("weight_map")
            .and_then(|m| m.as_object())
            .with_context(|| format!("{} has no `weight_map`", index.display()))?;
        let mut names: Vec<&str> = map.values().filter_map(|v| v.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        for name in &names {
            ensure!(folder.join(name).is_file(), "shard `{name}` named by {} is missing", index.display());
        }
        Self::open_files(&names.iter().map(|n| folder.join(n)).collect::<Vec<_>>())
    }

    /// Opens the files named.
    pub fn open_files(paths: &[PathBuf]) -> Result<Self> {
        let (mut files, mut by_name) = (Vec::new(), HashMap::new());
        for path in paths {
            let file = File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
            // SAFETY: the map is read only. A file that another program changes meanwhile may give
            // wrong numbers, as reading it would.
            #[allow(unsafe_code)]
            let map = unsafe { Mmap::map(&file) }.with_context(|| format!("{} cannot be mapped", path.display()))?;
            let tensors = SafeTensors::deserialize(&map).map_err(|error| {
                anyhow::anyhow!("{} is truncated or no safetensors file ({error}): fetch it again", path.display())
            })?;
            by_name.extend(tensors.names().into_iter().map(|name| (name.to_owned(), files.len())));
            files.push((path.clone(), map));
        }
        Ok(Self { files, by_name })
    }

    /// The files, for messages.
    fn places(&self) -> String {
        self.files.iter().map(|(path, _)| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }

    /// Refuses tensors that nothing would read: weights of another model pass for those of a smaller one otherwise.
    ///
    /// `is_read` says which names are known; rotary frequencies, which older checkpoints store, follow from the config
    /// and are passed over. `reader` names what reads, for the message.
    pub fn check_all_read(&self, is_read: impl Fn(&str) -> bool, reader: &str) -> Result<()> {
        let is_unread = |name: &&str| !name.ends_with("rotary_emb.inv_freq") && !is_read(name);
        let mut unread: Vec<&str> = self.names().filter(is_unread).collect();
        unread.sort_unstable();
        if let Some(first) = unread.first() {
            bail!(
                "{} holds {} of {} tensors that {reader} does not have, first `{first}`: config and weights are not of the same model, or of a kind that is not known",
                self.places(),
                unread.len(),
                self.by_name.len()
            );
        }
        Ok(())
    }

    /// Names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// Whether a tensor of this name is there.
    pub fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    fn view<'s, R>(&'s self, name: &str, read: impl FnOnce(TensorView<'s>) -> Result<R>) -> Result<R> {
        let Some(&file) = self.by_name.get(name) else {
            bail!("tensor `{name}` is missing in {}", self.places());
        };
        let (path, map) = &self.files[file];
        let tensors = SafeTensors::deserialize(map).with_context(|| format!("{} cannot be read", path.display()))?;
        let view = tensors.tensor(name).with_context(|| format!("{} cannot be read", path.display()))?;
        read(view).with_context(|| format!("tensor `{name}` of {} cannot be used", path.display()))
    }

    /// A tensor's bytes where they are mapped; its type and shape must be these.
    pub fn bytes(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<&[u8]> {
        self.view(name, |view| {
            ensure!(
                view.dtype() == dtype && view.shape() == shape,
                "it is {:?} of {:?} where {dtype:?} of {shape:?} is wanted",
                view.dtype(),
                view.shape()
            );
            Ok(view.data())
        })
    }

    /// What the metadata of the first file say under a name.
    pub fn note(&self, name: &str) -> Result<Option<String>> {
        let Some((path, map)) = self.files.first() else { return Ok(None) };
        let (_, metadata) =
            SafeTensors::read_metadata(map).with_context(|| format!("{} cannot be read", path.display()))?;
        Ok(metadata.metadata().as_ref().and_then(|notes| notes.get(name).cloned()))
    }

    /// Shape of a tensor.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        self.view(name, |view| Ok(view.shape().to_vec()))
    }

    /// A tensor, converted to `dtype` on `device`; its shape must be `shape`.
    pub fn load(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        self.view(name, |view| {
            ensure!(
                view.shape() == shape,
                "its shape is {:?} where the model's config asks for {shape:?}",
                view.shape()
            );
            convert(&view, dtype, device)
        })
    }

    /// A tensor as it is stored, in f32 or f64 on the CPU.
    pub fn load_any(&self, name: &str, dtype: DType) -> Result<Tensor> {
        self.view(name, |view| convert(&view, dtype, &Device::Cpu))
    }

    /// 64-bit integers of a tensor.
    pub fn integers(&self, name: &str) -> Result<Vec<i64>> {
        self.view(name, |view| {
            ensure!(view.dtype() == Dtype::I64, "expected i64, found {:?}", view.dtype());
            Ok(view.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes"))).collect())
        })
    }
}

/// The elements of a stored tensor in the float type wanted, in one pass over the file's bytes.
fn convert(view: &TensorView, dtype: DType, device: &Device) -> Result<Tensor> {
    fn collect<const B: usize, T: Send>(data: &[u8], read: impl Fn([u8; B]) -> T + Sync) -> Vec<T> {
        data.par_chunks_exact(B)
            .with_min_len(1 << 16)
            .map(|b| read(b.try_into().expect("chunks have this size")))
            .collect()
    }
    let (shape, data) = (view.shape(), view.data());
    let tensor = if dtype == DType::F64 {
        let values: Vec<f64> = match view.dtype() {
            Dtype::F64 => collect(data, f64::from_le_bytes),
            Dtype::F32 => collect(data, |b| f64::from(f32::from_le_bytes(b))),
            Dtype::BF16 => collect(data, |b| half::bf16::from_le_bytes(b).to_f64()),
            Dtype::F16 => collect(data, |b| half::f16::from_le_bytes(b).to_f64()),
            other => bail!("elements of type {other:?} are not supported: f32, f16 and bf16 are"),
        };
        Tensor::from_vec(values, shape, device)?
    } else {
        let values: Vec<f32> = match view.dtype() {
            Dtype::F32 => collect(data, f32::from_le_bytes),
            Dtype::BF16 => collect(data, |b| half::bf16::from_le_bytes(b).to_f32()),
            Dtype::F16 => collect(data, |b| half::f16::from_le_bytes(b).to_f32()),
            Dtype::F64 => collect(data, |b| f64::from_le_bytes(b) as f32),
            other => bail!("elements of type {other:?} are not supported: f32, f16 and bf16 are"),
        };
        Tensor::from_vec(values, shape, device)?
    };
    Ok(tensor.to_dtype(dtype)?)
}

/// A tensor about to be written.
struct Outgoing<'a>(&'a Tensor);

impl safetensors::View for Outgoing<'_> {
    fn dtype(&self) -> Dtype {
        match self.0.dtype() {
            DType::F64 => Dtype::F64,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            DType::U32 => Dtype::U32,
            DType::I64 => Dtype::I64,
            _ => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        self.0.dims()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = || -> candle_core::Result<Vec<u8>> {
            let flat = self.0.flatten_all()?;
            let is_on_cpu = flat.device().is_cpu() && flat.is_contiguous();
            Ok(match flat.dtype() {
                // Straight from the tensor, so that a large one is copied once.
                DType::F32 if is_on_cpu => View::<f32>::new(&flat)?.iter().flat_map(|v| v.to_le_bytes()).collect(),
                DType::F64 => flat.to_vec1::<f64>()?.iter().flat_map(|v| v.to_le_bytes()).collect(),
                DType::F16 => flat.to_vec1::<half::f16>()?.iter().flat_map(|v| v.to_le_bytes()).collect(),
                DType::BF16 => flat.to_vec1::<half::bf16>()?.iter().flat_map(|v| v.to_le_bytes()).collect(),
                DType::U32 => flat.to_vec1::<u32>()?.iter().flat_map(|v| v.to_le_bytes()).collect(),
                DType::I64 => flat.to_vec1::<i64>()?.iter().flat_map(|v| v.to_le_bytes()).collect(),
                _ => flat.to_dtype(DType::F32)?.to_vec1::<f32>()?.iter().flat_map(|v| v.to_le_bytes()).collect(),
            })
        };
        Cow::Owned(bytes().expect("a tensor's elements can be copied to the host"))
    }

    fn data_len(&self) -> usize {
        self.0.elem_count() * self.0.dtype().size_in_bytes()
    }
}

/// Writes tensors to one file, complete or not at all.
pub fn write_file(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let partial = path.with_extension("partial");
    let views: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), Outgoing(tensor))).collect();
    let write = || -> Result<()> {
        // The writer makes a private temporary file: a plain one tells which mode the person wants.
        let mode = File::create(&partial)?.metadata()?.permissions();
        safetensors::serialize_to_file(views, Some(metadata), &partial)?;
        std::fs::set_permissions(&partial, mode)?;
        Ok(File::open(&partial)?.sync_all()?)
    };
    let result = write().and_then(|()| Ok(std::fs::rename(&partial, path)?));
    if result.is_err() {
        // Nothing half-written stays behind; the error that matters is the first one.
        let _ = std::fs::remove_file(&partial);
    }
    result.with_context(|| format!("{} cannot be written", path.display()))
}

/// Writes a model: `model.safetensors`, or shards with their index where it is too large for one.
pub fn write_model(folder: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    write_sharded(folder, tensors, SHARD_BYTES)
}

fn write_sharded(folder: &Path, tensors: &[(String, Tensor)], limit: usize) -> Result<()> {
    let size = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
    let mut shards: Vec<Vec<(String, Tensor)>> = vec![Vec::new()];
    let mut filled = 0;
    for (name, tensor) in tensors {
        if filled > 0 && filled + size(tensor) > limit {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += size(tensor);
        shards.last_mut().expect("there is a shard").push((name.clone(), tensor.clone()));
    }
    if let [only] = shards.as_slice() {
        return write_file(&folder.join("model.safetensors"), only);
    }
    let mut map = BTreeMap::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        write_file(&folder.join(&name), shard)?;
        map.extend(shard.iter().map(|(tensor, _)| (tensor.clone(), name.clone())));
    }
    let total: usize = tensors.iter().map(|(_, t)| size(t)).sum();
    let index = serde_json::json!({"metadata": {"total_size": total}, "weight_map": map});
    let path = folder.join("model.safetensors.index.json");
    std::fs::write(&path, serde_json::to_string_pretty(&index)?)
        .with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors() -> Vec<(String, Tensor)> {
        let make = |start: f32| Tensor::arange(start, start + 6.0, &Device::Cpu).unwrap().reshape((2, 3)).unwrap();
        vec![("a".into(), make(0.0)), ("b".into(), make(6.0).to_dtype(DType::BF16).unwrap()), ("c".into(), make(9.5))]
    }

    #[test]
    fn shards_and_single_files_read_back_alike() {
        for limit in [30, 1000] {
            let folder = tempfile::tempdir().unwrap();
            write_sharded(folder.path(), &tensors(), limit).unwrap();
            assert_eq!(folder.path().join("model.safetensors").exists(), limit == 1000);
            let weights = Weights::open(folder.path()).unwrap();
            for (name, tensor) in tensors() {
                let back = weights.load(&name, &[2, 3], DType::F32, &Device::Cpu).unwrap();
                assert_eq!(
                    back.to_vec2::<f32>().unwrap(),
                    tensor.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap()
                );
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn written_files_have_the_mode_of_any_other_new_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        write_sharded(folder.path(), &tensors(), 1000).unwrap();
        std::fs::write(folder.path().join("plain"), "").unwrap();
        let mode = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode("model.safetensors"), mode("plain"));
    }

    #[test]
    fn tensors_that_nothing_reads_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let frequencies = ("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), tensors()[0].1.clone());
        write_sharded(folder.path(), &[tensors(), vec![frequencies]].concat(), 1000).unwrap();
        let weights = Weights::open(folder.path()).unwrap();
        weights.check_all_read(|name| ["a", "b", "c"].contains(&name), "the model").unwrap();
        let error = weights.check_all_read(|name| name == "a", "the model").unwrap_err().to_string();
        assert!(error.contains("2 of 4 tensors that the model does not have, first `b`"), "{error}");
    }

    #[test]
    fn damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let message = |folder: &Path| format!("{:#}", Weights::open(folder).err().unwrap());
        assert!(message(folder.path()).contains("holds neither"));
        write_sharded(folder.path(), &tensors(), 30).unwrap();
        std::fs::remove_file(folder.path().join("model-00002-of-00003.safetensors")).unwrap();
        assert!(message(folder.path()).contains("shard `model-00002-of-00003.safetensors`"));
        write_sharded(folder.path(), &tensors(), 1000).unwrap();
        let weights = Weights::open(folder.path()).unwrap();
        let error = format!("{:#}", weights.load("a", &[3, 2], DType::F32, &Device::Cpu).unwrap_err());
        assert!(error.contains("[2, 3]") && error.contains("[3, 2]"), "{error}");
        assert!(
            format!("{:#}", weights.load("z", &[1], DType::F32, &Device::Cpu).unwrap_err()).contains("`z` is missing")
        );
        let path = folder.path().join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
        assert!(message(folder.path()).contains("truncated"));
    }
}
