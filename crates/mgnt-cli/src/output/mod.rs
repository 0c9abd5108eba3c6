//! What people look at: grids, strips, animations, pages.

pub mod animation;
pub mod canvas;
pub mod grid;
pub mod page;
pub mod plot;
