//! Loads a trained transformer and prints the tokens of two pictures, decoded by small sub-models first.
//!
//! cargo run --release -p mgnt-decode --example generate -- runs/nested/model

use burn::tensor::Device;
use mgnt_decode::{Decoder, Strategy};
use mgnt_model::NestedTransformer;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: generate MODEL_DIRECTORY")?;
    let model = NestedTransformer::load(folder, &Device::flex())?.on_processor();
    let plan = Strategy::parse("8x3,4x3,2x3,1x3")?.plan(model.config())?;
    let decoded = Decoder::new(&model, &plan).classes(&[0, 1]).seed(1).run()?;
    for tokens in &decoded.tokens {
        println!("{tokens:?}");
    }
    print!("{}", decoded.ledger);
    Ok(())
}
