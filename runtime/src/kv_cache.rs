use lwv_kernels::attention::Order;
use lwv_model::{ElementType, Target, contract};
use ort::memory::Allocator;

use crate::binding::{Bind, Binding, Elements, Slot};
use crate::bundle::Bundle;
use crate::error::{Inner, Result};
use crate::huge_pages::HugePages;

/// Bytes of the cache's memory that are given back together, so that little is there twice when it grows.
const REGION: usize = 8 << 20;

/// Sizes of a decoder's cache of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KvLayout {
    layers: usize,
    heads: usize,
    head_dim: usize,
    elements: Elements,
    place: Place,
}

/// Where the graph writes the new rows of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Behind the old ones: past and present are one memory.
    Behind,
    /// Into other memory, together with a copy of the old ones, so that tensors always lie dense.
    Joined,
}

impl KvLayout {
    /// Of a bundle's decoder.
    pub(crate) fn of(bundle: &Bundle) -> Self {
        let text = &bundle.config().text;
        Self {
            place: match bundle.manifest().target {
                Target::TensorRt => Place::Joined,
                _ => Place::Behind,
            },
            layers: text.num_hidden_layers,
            heads: text.num_key_value_heads,
            head_dim: text.head_dim,
            elements: match bundle.cache_type() {
                ElementType::Float16 => Elements::Half,
                ElementType::Int8 => Elements::Byte,
                _ => Elements::Float,
            },
        }
    }

    /// Bytes that `tokens` tokens take: linear, with nothing on top.
    pub(crate) fn bytes(&self, tokens: usize) -> u64 {
        let copies = if self.place == Place::Joined { 2 } else { 1 };
        let per_token = copies * 2 * self.layers * self.heads * self.head_dim * self.elements.size();
        tokens as u64 * per_token as u64
    }

    /// Tokens that fit into `budget` bytes.
    pub(crate) fn tokens(&self, budget: u64) -> usize {
        let tokens = usize::try_from(budget / self.bytes(1).max(1)).unwrap_or(usize::MAX);
        tokens - tokens % self.together()
    }

    /// Tokens whose rows may lie mixed, so that room is made for all of them and all are moved.
    fn together(&self) -> usize {
        match (self.place, self.elements) {
            (Place::Behind, Elements::Byte) => Order::ROWS,
            _ => 1,
        }
    }

    fn shape(&self, capacity: usize) -> [usize; 4] {
        [1, self.heads, capacity, self.head_dim]
    }
}

/// The cache: for every layer one memory of keys and one of values, each bound as past and as present, so that the
/// attention operator writes new rows in place and nothing is copied from token to token.
/// Rows past the number of tokens are never read, so going back is only counting fewer.
///
/// Graphs that join the new rows to the old ones have two memories for every tensor, which they read and write in turns.
pub(crate) struct KvCache {
    layout: KvLayout,
    budget: u64,
    context: usize,
    capacity: usize,
    tensors: Vec<Tensor>,
    /// Tokens that dense tensors hold.
    dense: usize,
    device: Option<Allocator>,
}

#[derive(Clone, Copy)]
struct Tensor {
    slot: Slot,
    /// Where joined rows go.
    other: Slot,
    past: Bind,
    present: Bind,
}

impl KvCache {
    /// An empty cache. `context` is the most tokens it may ever hold; with `device` it lives there.
    pub(crate) fn new(layout: KvLayout, budget: u64, context: usize, device: Option<Allocator>) -> Self {
        Self {
            layout,
            budget,
            context,
            capacity: 0,
            tensors: Vec::new(),
            dense: 0,
            device,
        }
    }

    /// Bytes allocated.
    pub(crate) fn bytes(&self) -> u64 {
        self.layout.bytes(self.capacity)
    }

    /// Tokens it has room for.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes room for `tokens` tokens and keeps the first `filled`. Does nothing where there is room; else it takes a
    /// quarter more than it had, so that a text that grows by turns is not copied every turn.
    pub(crate) fn reserve(&mut self, binding: &mut Binding, tokens: usize, filled: usize) -> Result<()> {
        if tokens <= self.capacity {
            return Ok(());
        }
        let needs = self.layout.bytes(tokens.next_multiple_of(self.layout.together()));
        if needs > self.budget {
            return Err(Inner::Budget {
                tokens,
                needs,
                budget: self.budget,
            }
            .into());
        }
        let most = self.layout.tokens(self.budget).min(self.context).max(tokens);
        let grown = match (&self.device, self.capacity) {
            // Rows on a device are not copied here, so it gets all that it may.
            (Some(_), _) => most,
            (None, 0) => tokens,
            (None, old) => tokens.max(old + old / 4).min(most),
        };
        let grown = grown.next_multiple_of(self.layout.together());
        if self.tensors.is_empty() {
            self.create(binding, grown)
        } else {
            self.grow(binding, grown, filled)
        }
    }

    fn create(&mut self, binding: &mut Binding, capacity: usize) -> Result<()> {
        let shape = self.layout.shape(capacity);
        let pages = HugePages::in_regions(REGION);
        for layer in 0..self.layout.layers {
            let names = [
                (contract::past_key(layer), contract::present_key(layer)),
                (contract::past_value(layer), contract::present_value(layer)),
            ];
            for (past, present) in names {
                let [slot, other] = self.allocate(binding, capacity, &pages)?;
                let past = binding.bind_input(&past, slot, &shape)?;
                let present = binding.bind_output(&present, other, &shape)?;
                self.tensors.push(Tensor {
                    slot,
                    other,
                    past,
                    present,
                });
            }
        }
        self.capacity = capacity;
        Ok(())
    }

    /// Moves every tensor to larger memory, one after another, so that only one is there twice, or a region of huge pages.
    fn grow(&mut self, binding: &mut Binding, capacity: usize, filled: usize) -> Result<()> {
        let (heads, width) = (self.layout.heads, self.layout.head_dim);
        let stride = |tokens| tokens * width;
        let filled = filled.next_multiple_of(self.layout.together());
        let (old_stride, new_stride, filled) = match self.layout.place {
            Place::Behind => (stride(self.capacity), stride(capacity), stride(filled)),
            Place::Joined => (stride(self.dense), stride(self.dense), stride(self.dense)),
        };
        let pages = HugePages::in_regions(REGION);
        for index in 0..self.tensors.len() {
            let old = self.tensors[index];
            let [slot, other] = self.allocate(binding, capacity, &pages)?;
            let rows = (0..heads).map(|head| (head * old_stride, head * new_stride, filled));
            binding.copy(old.slot, slot, rows);
            binding.move_to(old.past, slot, &self.layout.shape(capacity))?;
            binding.move_to(old.present, other, &self.layout.shape(capacity))?;
            binding.release(old.slot);
            if old.other != old.slot {
                binding.release(old.other);
            }
            self.tensors[index] = Tensor { slot, other, ..old };
        }
        self.capacity = capacity;
        Ok(())
    }

    /// Readies the cache for a run that reads the first `filled` tokens and adds `count`.
    pub(crate) fn before_run(&mut self, binding: &mut Binding, filled: usize, count: usize) -> Result<()> {
        if self.layout.place == Place::Behind {
            return Ok(());
        }
        let (heads, width) = (self.layout.heads, self.layout.head_dim);
        for tensor in &self.tensors {
            if filled < self.dense {
                let rows =
                    (0..heads).map(|head| (head * self.dense * width, head * filled * width, filled * width));
                binding.move_within(tensor.slot, rows)?;
            }
            binding.move_to(tensor.past, tensor.slot, &self.layout.shape(filled))?;
            binding.move_to(tensor.present, tensor.other, &self.layout.shape(filled + count))?;
        }
        self.dense = filled;
        Ok(())
    }

    /// Takes over what a run has written: `total` tokens.
    pub(crate) fn after_run(&mut self, total: usize) {
        if self.layout.place == Place::Behind {
            return;
        }
        for tensor in &mut self.tensors {
            std::mem::swap(&mut tensor.slot, &mut tensor.other);
        }
        self.dense = total;
    }

    /// Memory to read from and to write to, the same where new rows are written behind the old ones.
    fn allocate(&self, binding: &mut Binding, capacity: usize, pages: &HugePages) -> Result<[Slot; 2]> {
        let shape = self.layout.shape(capacity);
        let elements = self.layout.elements;
        let mut memory = || match &self.device {
            Some(allocator) => binding.allocate_on_device(allocator, elements, &shape),
            None => binding.allocate(elements, shape.iter().product(), Some(pages)),
        };
        let slot = memory()?;
        match self.layout.place {
            Place::Behind => Ok([slot, slot]),
            Place::Joined => Ok([slot, memory()?]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(elements: Elements) -> KvLayout {
        KvLayout {
            layers: 30,
            heads: 3,
            head_dim: 64,
            elements,
            place: Place::Behind,
        }
    }

    #[test]
    fn bytes_are_linear_in_tokens() {
        assert_eq!(layout(Elements::Float).bytes(1), 46_080);
        assert_eq!(layout(Elements::Half).bytes(4096), 4096 * 23_040);
        assert_eq!(layout(Elements::Float).tokens(46_080 * 7 + 1), 7);
        assert_eq!(layout(Elements::Byte).tokens(11_520 * 47), 32, "whole blocks");
    }
}
