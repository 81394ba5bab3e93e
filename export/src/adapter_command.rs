use std::path::PathBuf;

use clap::Parser;
use lwv_export::{ConvertedAdapter, Error, convert_adapter};
use serde_json::json;

use crate::cli::absolute;

const EXAMPLES: &str = "\
Examples:
  lwv-export ./checkpoint ./bundle --int4 --runtime-adapters
  lwv-export adapter ./my-lora ./bundle
  lwv-write ./bundle --adapter ./bundle/adapters/my-lora.onnx_adapter --prompt '…'";

/// Converts a LoRA into a file that a bundle reads when it runs.
///
/// The bundle must have been exported with --runtime-adapters. The file is for this bundle, and for others of the same model in the
/// same precision; it is ONNX Runtime's format of adapters. A checkpoint whose folder is called `adapter` is exported as `./adapter`.
#[derive(Parser)]
#[command(name = "lwv-export adapter", version, after_help = EXAMPLES)]
pub(crate) struct AdapterCommand {
    /// Folder of the LoRA (PEFT layout)
    adapter: PathBuf,
    /// Folder of the bundle
    bundle: PathBuf,
    /// File to write [default: BUNDLE/adapters/NAME.onnx_adapter, where NAME is that of the LoRA's folder]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print a JSON object as the last line of stdout
    #[arg(long)]
    json: bool,
}

impl AdapterCommand {
    /// Converts and tells.
    ///
    /// # Errors
    /// As for [`convert_adapter`].
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let converted = convert_adapter(&self.adapter, &self.bundle, &self.file()?)?;
        print(&converted, self.json);
        Ok(())
    }

    fn file(&self) -> Result<PathBuf, Error> {
        if let Some(out) = &self.out {
            return absolute(out);
        }
        // With a name in it, wherever `.` is.
        let mut name = absolute(&self.adapter)?
            .file_name()
            .unwrap_or_default()
            .to_owned();
        name.push(".onnx_adapter");
        absolute(&self.bundle.join("adapters").join(name))
    }
}

#[expect(clippy::print_stdout, reason = "the command line's own output")]
fn print(converted: &ConvertedAdapter, json: bool) {
    if json {
        println!("{}", json!(converted));
        return;
    }
    println!(
        "wrote {} ({:.1} MB, {} linear layers)",
        converted.file.display(),
        converted.bytes_written as f64 / 1e6,
        converted.linear_layers
    );
}
