use super::*;
use crate::{ExternalLocation, NodeInfo, Storage};

fn builder() -> GraphBuilder {
    let mut graph = GraphBuilder::new("g");
    graph.opset("", 18);
    graph
        .input("x", DataType::Float32, &["batch".into(), 4.into()])
        .unwrap();
    graph
}

fn nodes(model: &Model) -> Vec<NodeInfo<'_>> {
    model.nodes().collect()
}

fn relu(graph: &mut GraphBuilder, input: &str) -> String {
    graph.op("Relu", &[input], []).unwrap()
}

#[test]
fn nodes_are_named_by_scope_and_operator() {
    let mut graph = builder();
    let first = graph.scoped("layers.3", |graph| {
        graph.push_scope("mlp");
        let value = relu(graph, "x");
        graph.pop_scope();
        relu(graph, &value)
    });
    let second = graph.scoped("layers.3/mlp", |graph| relu(graph, &first));
    let third = relu(&mut graph, &second);
    assert_eq!(first, "/layers.3/Relu_output_0");
    assert_eq!(second, "/layers.3/mlp/Relu_1_output_0");
    let model = graph.finish().unwrap();
    let names: Vec<&str> = model.nodes().map(|node| node.name).collect();
    assert_eq!(
        names,
        [
            "/layers.3/mlp/Relu",
            "/layers.3/Relu",
            "/layers.3/mlp/Relu_1",
            "/Relu"
        ]
    );
    assert_eq!(nodes(&model)[3].outputs, [third]);
}

#[test]
fn scopes_are_left_as_they_were() {
    let mut graph = builder();
    graph.pop_scope();
    graph.set_scope("a");
    graph.scoped("b", |graph| graph.set_scope("c"));
    assert_eq!(relu(&mut graph, "x"), "/a/Relu_output_0");
    graph.push_scope("b");
    graph.set_scope("");
    assert_eq!(relu(&mut graph, "x"), "/Relu_output_0");
}

#[test]
fn fresh_values_avoid_the_names_of_others() {
    let mut graph = builder();
    graph.input("/Relu_output_0", DataType::Float32, &[]).unwrap();
    assert_eq!(relu(&mut graph, "x"), "/Relu_output_0_1");
}

#[test]
fn output_gets_an_identity_only_when_named_otherwise() {
    let mut graph = builder();
    graph
        .node_named_outputs(Node::new("Relu", &["x"]), &["y"])
        .unwrap();
    graph.output("y", "y", DataType::Float32, &[]).unwrap();
    graph.output("z", "y", DataType::Float32, &[]).unwrap();
    let model = graph.finish().unwrap();
    let nodes = nodes(&model);
    assert_eq!(nodes.len(), 2);
    assert_eq!(nodes[1].op_type, "Identity");
    assert_eq!(
        (nodes[1].inputs, nodes[1].outputs),
        (&["y".to_owned()][..], &["z".to_owned()][..])
    );
    let names: Vec<&str> = model.outputs().iter().map(|value| value.name.as_str()).collect();
    assert_eq!(names, ["y", "z"]);
}

#[test]
fn absent_inputs_and_outputs_keep_their_places_but_at_the_end() {
    let mut graph = builder();
    graph.opset("com.microsoft", 1);
    let node = Node::in_domain("com.microsoft", "SkipNorm", &["x", "", "x", ""]);
    let outputs = [
        Output::Fresh,
        Output::Absent,
        Output::Absent,
        Output::Fresh,
        Output::Absent,
    ];
    let names = graph.node_with_outputs(node, &outputs).unwrap();
    assert_eq!(names, ["/SkipNorm_output_0", "", "", "/SkipNorm_output_3", ""]);
    let model = graph.finish().unwrap();
    let node = nodes(&model)[0];
    assert_eq!(node.inputs, ["x", "", "x"]);
    assert_eq!(node.outputs, &names[..4]);
    assert_eq!(node.domain, "com.microsoft");
}

#[test]
fn node_has_as_many_outputs_as_it_says() {
    let mut graph = builder();
    let split = Node::new("Split", &["x"])
        .with([Attribute::int("num_outputs", 2)])
        .outputs(2);
    assert_eq!(graph.node(split).unwrap(), ["/Split_output_0", "/Split_output_1"]);
}

#[test]
fn value_must_be_defined_before_its_use() {
    let mut graph = builder();
    let error = graph
        .scoped("a", |graph| graph.op("Relu", &["later"], []))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "node `/a/Relu` reads `later`, which nothing before it defines"
    );
    graph
        .node_named_outputs(Node::new("Relu", &["x"]), &["later"])
        .unwrap();
    graph.op("Relu", &["later"], []).unwrap();
    let error = graph
        .node_named_outputs(Node::new("Relu", &["own"]), &["own"])
        .unwrap_err();
    assert!(matches!(error, Error::UndefinedInput { value, .. } if value == "own"));
}

#[test]
fn values_are_defined_once() {
    let definer = |error: Error| match error {
        Error::DuplicateValue { value, definer } => (value, definer),
        error => panic!("{error}"),
    };
    let mut graph = builder();
    let error = graph.input("x", DataType::Float32, &[]).unwrap_err();
    assert_eq!(definer(error), ("x".to_owned(), "an input".to_owned()));
    let error = graph
        .initializer_inline("x", DataType::Int8, &[], vec![1])
        .unwrap_err();
    assert_eq!(definer(error), ("x".to_owned(), "an initializer".to_owned()));
    assert!(!graph.has_initializer("x"));
    let error = graph
        .node_named_outputs(Node::new("Relu", &["x"]), &["x"])
        .unwrap_err();
    assert_eq!(definer(error), ("x".to_owned(), "node `/Relu`".to_owned()));
    let one = graph.scalar_i64(1);
    let error = graph.input(&one, DataType::Int64, &[]).unwrap_err();
    assert_eq!(definer(error), (one, "an input".to_owned()));
}

#[test]
fn outputs_are_defined_and_declared_once() {
    let mut graph = builder();
    let mut output = |name, value| graph.output(name, value, DataType::Float32, &[]);
    assert!(matches!(output("z", "y"), Err(Error::UndefinedOutput { value }) if value == "y"));
    output("x", "x").unwrap();
    assert!(matches!(output("x", "x"), Err(Error::DuplicateOutput { value }) if value == "x"));
    output("y", "x").unwrap();
    assert!(matches!(output("y", "x"), Err(Error::DuplicateOutput { value }) if value == "y"));
}

#[test]
fn names_are_not_empty() {
    let mut graph = builder();
    assert!(matches!(
        graph.input("", DataType::Float32, &[]),
        Err(Error::EmptyName)
    ));
    assert!(matches!(
        graph.output("", "x", DataType::Float32, &[]),
        Err(Error::EmptyName)
    ));
    assert!(matches!(
        graph.initializer_inline("", DataType::Int8, &[0], vec![]),
        Err(Error::EmptyName)
    ));
}

#[test]
fn domains_must_be_imported() {
    let mut graph = builder();
    graph.op_in("com.microsoft", "Gelu", &["x"], []).unwrap();
    let Err(Error::MissingOpset { node, domain }) = graph.finish() else {
        panic!("a domain was not missed")
    };
    assert_eq!((node.as_str(), domain.as_str()), ("/Gelu", "com.microsoft"));
}

#[test]
fn initializers_are_unique_by_name() {
    let mut graph = builder();
    let location = ExternalLocation {
        file: "w.data".to_owned(),
        offset: 0,
        length: 24,
    };
    let dtype = DataType::Float32;
    graph
        .initializer_external("w", dtype, &[2, 3], location.clone())
        .unwrap();
    assert_eq!(
        graph
            .initializer_external("w", dtype, &[2, 3], location.clone())
            .unwrap(),
        "w"
    );
    let error = graph
        .initializer_external("w", dtype, &[3, 2], location.clone())
        .unwrap_err();
    assert!(matches!(error, Error::InitializerConflict { .. }), "{error}");
    let error = graph
        .initializer_inline("w", dtype, &[2, 3], vec![0; 24])
        .unwrap_err();
    assert!(matches!(error, Error::InitializerConflict { .. }), "{error}");

    graph
        .initializer_inline("b", DataType::Int8, &[2], vec![1, 2])
        .unwrap();
    graph
        .initializer_inline("b", DataType::Int8, &[2], vec![1, 2])
        .unwrap();
    let error = graph
        .initializer_inline("b", DataType::Int8, &[2], vec![2, 1])
        .unwrap_err();
    assert!(matches!(error, Error::InitializerConflict { .. }), "{error}");
    assert!(graph.has_initializer("b"));

    let model = graph.finish().unwrap();
    let stored: Vec<_> = model
        .initializers()
        .map(|initializer| &initializer.storage)
        .collect();
    assert_eq!(stored, [&Storage::External(location), &Storage::Inline]);
}

#[test]
fn misshapen_initializer_is_named() {
    let error = builder()
        .initializer_inline("w", DataType::Int8, &[2], vec![1])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "`w` of `Int8` and shape `[2]` takes `2` bytes, not `1`"
    );
}

#[test]
fn later_settings_replace_earlier_ones() {
    let mut graph = builder();
    graph
        .opset("", 21)
        .ir_version(10)
        .producer("p", "1")
        .doc_string("d");
    graph.metadata("k", "a").metadata("k", "b");
    let model = graph.finish().unwrap();
    assert_eq!(model.opsets(), [(String::new(), 21)].into());
    assert_eq!(
        (model.ir_version(), model.producer(), model.doc_string()),
        (10, ("p", "1"), "d")
    );
    assert_eq!((model.metadata("k"), model.metadata("other")), (Some("b"), None));
}

#[test]
fn only_the_last_node_is_taken_back() {
    let mut graph = builder();
    let first = relu(&mut graph, "x");
    let second = relu(&mut graph, &first);
    assert_eq!(graph.take_back("Relu", &first), None);
    assert_eq!(graph.take_back("Add", &second), None);
    assert_eq!(graph.take_back("Relu", &second), Some(vec![first.clone()]));
    let outputs = [Output::Fresh, Output::Named(second.clone())];
    let both = graph
        .node_with_outputs(Node::in_domain("other", "Both", &[&first]), &outputs)
        .unwrap();
    assert_eq!(both[1], second);
    graph.opset("other", 1);
    assert_eq!(nodes(&graph.finish().unwrap()).len(), 2);
}

#[test]
fn an_input_with_default_is_an_input_and_an_initializer() {
    let mut graph = builder();
    let tensor = Tensor::i64(&[1], &[1]).unwrap();
    let dims = [Dimension::from("counts")];
    graph.input_with_default("count", &dims, tensor.clone()).unwrap();
    let again = graph
        .input_with_default("count", &dims, tensor.clone())
        .unwrap_err();
    assert!(matches!(again, Error::DuplicateValue { .. }), "{again}");
    graph.op("Slice", &["x", "count", "count"], []).unwrap();
    assert!(graph.has_initializer("count"));
    let model = graph.finish().unwrap();
    let input = &model.inputs()[1];
    assert_eq!((input.name.as_str(), input.dtype), ("count", DataType::Int64));
    assert_eq!(input.dims, dims);
}
