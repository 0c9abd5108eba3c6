//! Names to places: registers, constants, special registers, addresses.

use super::{Lowered, Lowering};
use crate::machine::{LANES, Special};
use crate::ptx::{self, Operand};

/// A register: where it lies, and bytes of a lane. Predicates have none.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Bytes from the start of a warp's registers.
    pub at: u32,
    /// Bytes a lane.
    pub width: usize,
}

impl Lowering<'_> {
    pub(super) fn allocate(&mut self, bytes: usize) -> u32 {
        let at = self.bytes;
        self.bytes += bytes.next_multiple_of(64);
        at as u32
    }

    fn declared(&self, name: &str, scope: usize) -> Option<(usize, &str)> {
        let mut at = Some(scope);
        while let Some(scope) = at {
            if let Some(ty) = self.entry.registers[scope].get(name) {
                return Some((scope, ty));
            }
            at = self.entry.parents[scope];
        }
        None
    }

    pub(super) fn register(&mut self, name: &str, scope: usize) -> Option<Place> {
        let (scope, ty) = self.declared(name, scope)?;
        let width = if ty == "pred" { 0 } else { ptx::bytes(ty)? };
        if let Some(place) = self.places.get(&(scope, name.to_owned())) {
            return Some(*place);
        }
        let at = self.allocate(width.max(1) * LANES);
        let place = Place { at, width };
        self.places.insert((scope, name.to_owned()), place);
        Some(place)
    }

    pub(super) fn constant(&mut self, bits: u64, width: usize) -> Place {
        if let Some(at) = self.constants.get(&(bits, width)) {
            return Place { at: *at, width };
        }
        let at = self.allocate(width * LANES);
        self.constants.insert((bits, width), at);
        Place { at, width }
    }

    fn special(&mut self, name: &str) -> Option<Place> {
        if let Some((at, _)) = self.specials.get(name) {
            return Some(Place { at: *at, width: 4 });
        }
        let axis = |name: &str| ["x", "y", "z"].iter().position(|a| name.ends_with(&format!(".{a}")));
        let stem = name.split('.').next()?;
        let special = match (stem, axis(name)) {
            ("%tid", Some(axis)) => Special::Thread(axis),
            ("%ntid", Some(axis)) => Special::Threads(axis),
            ("%ctaid", Some(axis)) | ("%clusterid", Some(axis)) => Special::Block(axis),
            ("%nctaid", Some(axis)) | ("%nclusterid", Some(axis)) => Special::Blocks(axis),
            ("%cluster_nctaid", Some(_)) => Special::One,
            ("%cluster_ctaid", Some(_)) => Special::Zero,
            ("%laneid", None) => Special::Lane,
            ("%warpid", None) => Special::WarpId,
            ("%lanemask_eq", None) => Special::LaneMask("eq"),
            ("%lanemask_lt", None) => Special::LaneMask("lt"),
            ("%lanemask_le", None) => Special::LaneMask("le"),
            ("%lanemask_gt", None) => Special::LaneMask("gt"),
            ("%lanemask_ge", None) => Special::LaneMask("ge"),
            ("%dynamic_smem_size", None) => Special::DynamicShared,
            ("%total_smem_size", None) => Special::TotalShared,
            ("%cluster_ctarank", None) | ("%clock", None) => Special::Zero,
            ("%cluster_nctarank", None) => Special::One,
            _ => return None,
        };
        let at = self.allocate(8 * LANES);
        self.specials.insert(name.to_owned(), (at, special));
        Some(Place { at, width: 4 })
    }

    /// Any value: a register of whatever width, or a constant of the width asked for.
    pub(super) fn any(&mut self, operand: &Operand, width: usize, scope: usize) -> Lowered<Place> {
        let Operand::Name(name) = operand else { return Err(format!("not a value: {operand:?}")) };
        if let Some(place) = self.register(name, scope).or_else(|| self.special(name)) {
            return Ok(place);
        }
        if let Some((at, _)) = self.entry.shared.get(name) {
            return Ok(self.constant(*at as u64, width));
        }
        if let Some((at, _)) = self.entry.local.get(name) {
            let at = *at as u64;
            if let Some((place, _)) = self.specials.get(name) {
                return Ok(Place { at: *place, width: 8 });
            }
            let place = self.allocate(8 * LANES);
            self.specials.insert(name.clone(), (place, Special::Local(at)));
            return Ok(Place { at: place, width: 8 });
        }
        if name == "WARP_SZ" {
            return Ok(self.constant(LANES as u64, width));
        }
        if let Some(address) = self.globals.get(name) {
            return Ok(self.constant(*address, width));
        }
        let mut bits = ptx::number(name).ok_or_else(|| format!("unknown name {name}"))?;
        // A double as written for a float of fewer bits does not occur; halves are written as bits.
        if width < 8 {
            bits &= (1u64 << (width * 8)) - 1;
        }
        Ok(self.constant(bits, width))
    }

    /// A value of exactly that width.
    pub(super) fn value(&mut self, operand: &Operand, width: usize, scope: usize) -> Lowered<Place> {
        let place = self.any(operand, width, scope)?;
        if place.width != width {
            return Err(format!("{operand:?} has {} bytes, not {width}", place.width));
        }
        Ok(place)
    }

    pub(super) fn predicate_place(&mut self, name: &str, scope: usize) -> Lowered<u32> {
        match self.register(name, scope) {
            Some(place) if place.width == 0 => Ok(place.at),
            _ => Err(format!("{name} is no predicate")),
        }
    }

    /// A predicate's place, and whether it is negated; a constant is a place that stays zero.
    pub(super) fn predicate(&mut self, operand: &Operand, scope: usize) -> Lowered<(u32, bool)> {
        let Operand::Name(name) = operand else { return Err(format!("no predicate: {operand:?}")) };
        let stem = name.trim_start_matches('!');
        if let Some(number) = ptx::number(stem) {
            let place = self.constant(0, 4);
            return Ok((place.at, number != 0));
        }
        Ok((self.predicate_place(stem, scope)?, name.starts_with('!')))
    }

    pub(super) fn places(
        &mut self,
        operand: &Operand,
        width: usize,
        scope: usize,
    ) -> Lowered<Vec<Option<Place>>> {
        match operand {
            Operand::Vector(all) => all
                .iter()
                .map(|o| match o {
                    Operand::Name(name) if name == "_" => Ok(None),
                    other => self.any(other, width, scope).map(Some),
                })
                .collect(),
            other => Ok(vec![Some(self.any(other, width, scope)?)]),
        }
    }

    /// The base register (64 bits or 32) and the offset of an address.
    pub(super) fn address(&mut self, operand: &Operand, scope: usize) -> Lowered<(Place, u64)> {
        match operand {
            Operand::Address(base, offset) => {
                Ok((self.any(&Operand::Name(base.clone()), 8, scope)?, *offset as u64))
            }
            other => Err(format!("no address: {other:?}")),
        }
    }
}
