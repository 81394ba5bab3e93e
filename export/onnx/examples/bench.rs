//! temporary
use lwv_onnx::*;
fn main() {
    let dir = std::path::PathBuf::from(std::env::args().nth(1).unwrap());
    for _ in 0..2 {
    let t = std::time::Instant::now();
    let mut w = ExternalWriter::create(dir.join("big.data")).unwrap();
    for _ in 0..64u64 { w.append::<Error>(64 << 20, |c| { c[0] = 1; Ok(()) }).unwrap(); }
    println!("{:?}", t.elapsed());
    let f = w.finish().unwrap();
    println!("{:?} {}", t.elapsed(), f.bytes);
    }
}
