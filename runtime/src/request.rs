//! The words that the writer puts its requests in.

use crate::plan::Plan;

/// Asks for a plan. The form of the lines is not shown: each line is begun for the model, and a small model copies what it is shown.
pub(crate) fn plan_request(instruction: &str, sections: usize, words: usize) -> String {
    format!(
        "{instruction}\n\nMake a plan for this text first. It has {words} words in {sections} paragraphs. Say in one \
         short phrase for each paragraph what its main point is. No two paragraphs have the same main point."
    )
}

/// Asks for the text of a plan, or for a text in one piece.
pub(crate) fn section_request(instruction: &str, plan: &Plan) -> String {
    if plan.is_in_one_piece() {
        return format!("{instruction}\n\nWrite about {} words.", plan.words());
    }
    let points: Vec<&str> = plan
        .sections
        .iter()
        .map(|section| section.main_point.as_str())
        .collect();
    format!(
        "{instruction}\n\nWrite about {} words in {} sections, each under its own heading: {}.",
        plan.words(),
        points.len(),
        points.join("; ")
    )
}
