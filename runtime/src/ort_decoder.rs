use std::sync::Arc;

use lwv_model::contract;
use lwv_processor::Patches;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};

use crate::adapter::Adapter;
use crate::binding::{Bind, Binding, Elements, Slot};
use crate::bundle::Bundle;
use crate::cancel::Interrupt;
use crate::decoder::Decoder;
use crate::error::{Inner, Result};
use crate::graph::{Graph, RunControl};
use crate::kv_cache::{KvCache, KvLayout};
use crate::provider::Device;
use crate::vision_inputs::VisionInputs;

/// The loaded graphs of a bundle, shared by all sessions.
pub(crate) struct Graphs {
    pub(crate) decoder: Graph,
    pub(crate) embed_tokens: Graph,
    pub(crate) vision_encoder: Option<Graph>,
    /// What the graphs were loaded on; never [`Device::Auto`].
    pub(crate) device: Device,
    /// Threads that the processor computes with.
    pub(crate) threads: usize,
}

/// Limits of a session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of cache.
    pub(crate) kv_budget: u64,
    /// Tokens in one run of prefill.
    pub(crate) prefill_chunk: usize,
    /// Tokens of context.
    pub(crate) context: usize,
    /// Whether the cache is in a provider's memory on processors too.
    pub(crate) provider_memory: bool,
}

/// The decoder of a bundle, run by ONNX Runtime. All tensors are bound once; from token to token only the mask, which
/// grows, is bound again.
pub(crate) struct OrtDecoder {
    graphs: Arc<Graphs>,
    control: Arc<RunControl>,
    sizes: Sizes,
    length: usize,
    embedder: Embedder,
    binding: Binding,
    cache: KvCache,
    embeds: (Slot, Bind),
    mask: (Slot, Bind),
    positions: (Slot, Bind),
    logits: Logits,
    vision: VisionInputs,
    /// Tokens that the inputs are shaped for.
    shaped: usize,
    on_host: bool,
}

/// Scores that a run leaves.
struct Logits {
    /// `[rows, vocabulary]`.
    slot: Slot,
    /// Rows of the last run.
    rows: usize,
    /// Where the graph is told how many rows to make, and where it writes them; `None` where it always makes one.
    scored: Option<(Slot, Bind, Bind)>,
}

/// Most tokens whose scores one run gives. More than so many right guesses in a row are rare, and memory is set aside for them.
const LONGEST_STEP: usize = 17;

#[derive(Debug, Clone, Copy)]
struct Sizes {
    vocabulary: usize,
    hidden: usize,
    axes: usize,
    context: usize,
    chunk: usize,
}

impl OrtDecoder {
    pub(crate) fn new(
        graphs: Arc<Graphs>,
        bundle: &Bundle,
        adapter: Option<&Adapter>,
        limits: Limits,
    ) -> Result<Self> {
        let text = &bundle.config().text;
        let sizes = Sizes {
            vocabulary: text.vocab_size,
            hidden: text.hidden_size,
            axes: bundle.config().position_axes(),
            context: limits.context,
            chunk: limits.prefill_chunk.clamp(1, limits.context.max(1)),
        };
        let session = graphs.decoder.lock();
        let on_device = match graphs.device {
            Device::Cpu if limits.provider_memory => Some(Allocator::new(&session, MemoryInfo::default())?),
            // Its plug-in has no copies between devices, which dense tensors need when a text goes back.
            Device::TensorRtRtx => None,
            device => device_allocator(&session, device)?,
        };
        let mut binding = Binding::new(graphs.decoder.name(), &session)?;
        drop(session);
        let embeds = input(
            &mut binding,
            contract::INPUTS_EMBEDS,
            Elements::Float,
            &sizes.embeds(sizes.chunk),
        )?;
        let mask = input(
            &mut binding,
            contract::ATTENTION_MASK,
            Elements::Integer,
            &[1, sizes.context],
        )?;
        binding.integers(mask.0).fill(1);
        let positions = input(
            &mut binding,
            contract::POSITION_IDS,
            Elements::Integer,
            &sizes.positions(sizes.chunk),
        )?;
        let logits = Logits::new(&mut binding, sizes, bundle.scores_several())?;
        for tensor in adapter.map(Adapter::tensors).unwrap_or_default() {
            binding.bind_adapter_tensor(tensor)?;
        }
        Ok(Self {
            control: RunControl::new(graphs.device)?,
            embedder: Embedder::new(&graphs.embed_tokens, sizes)?,
            on_host: on_device.is_none(),
            cache: KvCache::new(KvLayout::of(bundle), limits.kv_budget, sizes.context, on_device),
            shaped: sizes.chunk,
            vision: VisionInputs::of(bundle),
            length: 0,
            graphs,
            sizes,
            binding,
            embeds,
            mask,
            positions,
            logits,
        })
    }

    /// Appends the tokens that were just embedded, and keeps the scores after the last `scored` of them.
    fn run(&mut self, count: usize, positions: &[i64], scored: usize) -> Result<()> {
        let total = self.length + count;
        if total > self.cache.capacity() {
            return Err(Inner::PromptTooLong {
                tokens: total,
                context: self.cache.capacity(),
            }
            .into());
        }
        self.binding.integers(self.positions.0)[..positions.len()].copy_from_slice(positions);
        self.shape_inputs(count)?;
        self.logits
            .expect(&mut self.binding, scored, self.sizes.vocabulary)?;
        self.cache.before_run(&mut self.binding, self.length, count)?;
        let mut session = self.graphs.decoder.lock();
        let options = match count > LONGEST_STEP {
            true => &self.control.large,
            false => &self.control.options,
        };
        self.binding.run(&mut session, options)?;
        self.cache.after_run(total);
        self.length = total;
        Ok(())
    }

    /// Shapes the inputs for `count` tokens after those in the cache. On a device, binding is also what copies there.
    fn shape_inputs(&mut self, count: usize) -> Result<()> {
        if self.shaped != count || !self.on_host {
            self.binding.reshape(self.embeds.1, &self.sizes.embeds(count))?;
            self.binding
                .reshape(self.positions.1, &self.sizes.positions(count))?;
            self.shaped = count;
        }
        self.binding.reshape(self.mask.1, &[1, self.length + count])
    }
}

impl Logits {
    fn new(binding: &mut Binding, sizes: Sizes, several: bool) -> Result<Self> {
        let (longest, name) = match several {
            true => (LONGEST_STEP.min(sizes.chunk), contract::LAST_LOGITS),
            false => (1, contract::LOGITS),
        };
        // Pages of rows that nobody asks for are never touched.
        let slot = binding.allocate(Elements::Float, longest * sizes.vocabulary, None)?;
        let output = binding.bind_output(name, slot, &[1, 1, sizes.vocabulary])?;
        let scored = match several {
            true => {
                let count = binding.allocate(Elements::Integer, 1, None)?;
                binding.integers(count)[0] = 1;
                let input = binding.bind_input(contract::SCORED_POSITIONS, count, &[1])?;
                Some((count, input, output))
            }
            false => None,
        };
        Ok(Self {
            slot,
            rows: 1,
            scored,
        })
    }

    /// Readies the next run to make `rows` rows.
    fn expect(&mut self, binding: &mut Binding, rows: usize, vocabulary: usize) -> Result<()> {
        if let Some((count, input, output)) = self.scored.filter(|_| self.rows != rows) {
            binding.integers(count)[0] = rows as i64;
            binding.reshape(input, &[1])?;
            binding.reshape(output, &[1, rows, vocabulary])?;
            self.rows = rows;
        }
        Ok(())
    }
}

impl Sizes {
    fn embeds(&self, count: usize) -> [usize; 3] {
        [1, count, self.hidden]
    }

    fn positions(&self, count: usize) -> Vec<usize> {
        if self.axes > 1 {
            vec![self.axes, 1, count]
        } else {
            vec![1, count]
        }
    }
}

fn input(binding: &mut Binding, name: &str, elements: Elements, shape: &[usize]) -> Result<(Slot, Bind)> {
    let slot = binding.allocate(elements, shape.iter().product(), None)?;
    Ok((slot, binding.bind_input(name, slot, shape)?))
}

/// The allocator of the device's memory, where the graphs run on one.
fn device_allocator(session: &ort::session::Session, device: Device) -> Result<Option<Allocator>> {
    let card = match device {
        Device::Auto | Device::Cpu => return Ok(None),
        Device::Cuda(card) => card,
        Device::TensorRt | Device::TensorRtRtx => 0,
    };
    let card = i32::try_from(card).unwrap_or_default();
    let memory = MemoryInfo::new(
        AllocationDevice::CUDA,
        card,
        AllocatorType::Device,
        MemoryType::Default,
    )?;
    Ok(Some(Allocator::new(session, memory)?))
}

impl Decoder for OrtDecoder {
    fn vocabulary(&self) -> usize {
        self.sizes.vocabulary
    }

    fn hidden_size(&self) -> usize {
        self.sizes.hidden
    }

    fn context(&self) -> usize {
        self.sizes.context
    }

    fn chunk(&self) -> usize {
        self.sizes.chunk
    }

    fn reserve(&mut self, tokens: usize) -> Result<()> {
        self.cache.reserve(&mut self.binding, tokens, self.length)
    }

    fn length(&self) -> usize {
        self.length
    }

    fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    fn embed(&mut self, ids: &[u32]) -> Result<&mut [f32]> {
        let embedded = self.embedder.run(&self.graphs.embed_tokens, ids, &self.control)?;
        let rows = &mut self.binding.floats(self.embeds.0)[..embedded.len()];
        rows.copy_from_slice(embedded);
        Ok(rows)
    }

    fn prefill(&mut self, count: usize, positions: &[i64]) -> Result<()> {
        self.run(count, positions, 1)
    }

    fn longest_step(&self) -> usize {
        match self.logits.scored {
            Some(_) => LONGEST_STEP.min(self.sizes.chunk),
            None => 1,
        }
    }

    fn steps(&mut self, ids: &[u32], positions: &[i64]) -> Result<()> {
        self.embed(ids)?;
        self.run(ids.len(), positions, ids.len())
    }

    fn logits_after(&mut self, index: usize) -> &mut [f32] {
        let start = index * self.sizes.vocabulary;
        &mut self.binding.floats(self.logits.slot)[start..start + self.sizes.vocabulary]
    }

    fn logits(&mut self) -> &mut [f32] {
        self.logits_after(self.logits.rows - 1)
    }

    fn encode_image(&mut self, image: &Patches) -> Result<Vec<f32>> {
        let Some(graph) = &self.graphs.vision_encoder else {
            return Err(Inner::NoVision { images: 1 }.into());
        };
        self.vision.run(graph, image, &self.control)
    }

    fn interrupt_handle(&self) -> Arc<dyn Interrupt> {
        Arc::clone(&self.control) as Arc<dyn Interrupt>
    }

    fn clear_interrupt(&mut self) -> Result<()> {
        self.control.clear()
    }

    fn kv_bytes(&self) -> u64 {
        self.cache.bytes()
    }
}

/// The graph `embed_tokens` with its own binding.
struct Embedder {
    binding: Binding,
    ids: (Slot, Bind),
    embeds: (Slot, Bind),
    sizes: Sizes,
    shaped: usize,
}

impl Embedder {
    fn new(graph: &Graph, sizes: Sizes) -> Result<Self> {
        let mut binding = Binding::new(graph.name(), &graph.lock())?;
        let ids = input(
            &mut binding,
            contract::INPUT_IDS,
            Elements::Integer,
            &[1, sizes.chunk],
        )?;
        let embeds = binding.allocate(Elements::Float, sizes.chunk * sizes.hidden, None)?;
        let bind = binding.bind_output(contract::INPUTS_EMBEDS, embeds, &sizes.embeds(sizes.chunk))?;
        Ok(Self {
            binding,
            ids,
            embeds: (embeds, bind),
            sizes,
            shaped: sizes.chunk,
        })
    }

    /// Embeddings `[ids.len(), hidden]`.
    fn run(&mut self, graph: &Graph, ids: &[u32], control: &RunControl) -> Result<&[f32]> {
        for (slot, id) in self.binding.integers(self.ids.0).iter_mut().zip(ids) {
            *slot = i64::from(*id);
        }
        // Binding is also what copies to a device, so the ids are always bound again.
        self.binding.reshape(self.ids.1, &[1, ids.len()])?;
        if self.shaped != ids.len() {
            self.binding
                .reshape(self.embeds.1, &self.sizes.embeds(ids.len()))?;
            self.shaped = ids.len();
        }
        self.binding.run(&mut graph.lock(), &control.options)?;
        Ok(&self.binding.floats(self.embeds.0)[..ids.len() * self.sizes.hidden])
    }
}
