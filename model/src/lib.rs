//! Configuration, weight names and network definition of the models, without a tensor library.
