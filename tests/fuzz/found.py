"""The defects that the fuzzing and the kills found, each with the test that holds its mend."""

from __future__ import annotations

__all__ = ["DEFECTS"]

_WEIGHTS = "tests/mobilenets/weights"
_INDEX = f"{_WEIGHTS}/test_bundle_index.py"
_HDF5 = f"{_WEIGHTS}/test_keras_files.py::TestErrors"
_FROZEN = f"{_WEIGHTS}/test_frozen_graph.py::TestErrors"
_MODULE = "tests/mobilenets/test_saved_model.py"
_WRITING = "tests/mobilenets/test_writing.py"

DEFECTS = (
    (
        "TensorFlow's reader ended the process at a bundle's entry that cannot be parsed, that has "
        "a negative or overflowing shape, or whose dtype is a reference",
        f"{_INDEX}::test_a_forged_index_is_refused",
    ),
    (
        "TensorFlow's reader ended the process at an entry of resources",
        f"{_INDEX}::test_an_entry_is_checked_before_it_is_read",
    ),
    (
        "TensorFlow's reader ended the process at an object graph that says it is longer than the "
        "file",
        f"{_INDEX}::test_a_length_beyond_the_data_is_not_believed",
    ),
    (
        "of one key with two values in a bundle, one was taken",
        f"{_INDEX}::test_a_forged_index_is_refused",
    ),
    (
        "`load` raised TensorFlow's, JSON's and Python's own exceptions for damaged modules",
        f"{_MODULE}::test_a_damaged_configuration_is_refused",
    ),
    (
        "a module's configuration could ask for a network of a terabyte",
        f"{_MODULE}::test_a_damaged_configuration_is_refused",
    ),
    (
        "`load` took a module's variables by their order, whatever their names, and NaN too",
        f"{_MODULE}::test_variables_that_are_not_finite_are_refused",
    ),
    (
        "objects that a TF2 checkpoint refers to by negative numbers raised an IndexError",
        f"{_WEIGHTS}/test_tf2_module.py::TestErrors::test_objects_that_are_not_there",
    ),
    (
        "the names along the paths of a deep object graph took gigabytes",
        f"{_WEIGHTS}/test_tf2_module.py::TestErrors::test_objects_within_objects_take_no_room",
    ),
    (
        "an HDF5 dataset of up to a kilobyte that was never written was read as zeros",
        f"{_HDF5}::test_few_values_that_were_never_written",
    ),
    (
        "a flipped bit in an HDF5 address gave another variable's values",
        f"{_HDF5}::test_two_variables_with_the_same_bytes",
    ),
    (
        "a flipped bit in an HDF5 dtype gave converted values",
        f"{_HDF5}::test_numbers_that_hdf5_would_convert",
    ),
    (
        "a constant of a frozen graph without values was read as zeros",
        f"{_FROZEN}::test_a_constant_without_values_is_not_zeros",
    ),
    (
        "of one name with two constants in a frozen graph, the last was taken",
        f"{_FROZEN}::test_a_name_twice",
    ),
    (
        "a single value filled a constant of a terabyte",
        f"{_FROZEN}::test_one_value_does_not_fill_a",
    ),
    (
        "a constant of variants raised a KeyError",
        f"{_FROZEN}::test_values_of_another_kind",
    ),
    (
        "an error listed all of a constant's 3,000 dimensions",
        f"{_FROZEN}::test_thousands_of_dimensions_are_not_listed",
    ),
    (
        "a `.pb` of a terabyte was read into memory",
        f"{_FROZEN}::test_a_file_that_no_graph_can_be",
    ),
    (
        "a first download whose length the server understated stayed in the cache, incomplete",
        "tests/mobilenets/fetching/test_network.py::"
        "test_a_length_that_is_too_small_is_not_believed",
    ),
    (
        "hidden folders with copies of the network stayed after a kill",
        f"{_WRITING}::test_what_a_killed_process_left_goes_and_what_a_living_one_has_stays",
    ),
    (
        "an older module was absent for a moment while a new one took its place",
        f"{_WRITING}::test_a_folder_is_replaced_in_one_step",
    ),
    (
        "the error for a tensor of 999 dimensions took as many words",
        "tests/mobilenets/weights/test_hugging_face.py::test_a_tensors_entry",
    ),
    (
        "the workers of `convert all` waited for ever after their parent was killed",
        "tests/convert/test_processes.py::test_processes_end_with_a_killed_parent",
    ),
    (
        "HDF5 ended the process when `convert keras-weights` found no room on the disk",
        "tests/convert/commands/test_full_disk.py::test_no_room",
    ),
    (
        "a server that sends a byte now and then held up a download for ever",
        "tests/mobilenets/fetching/test_network.py::test_a_server_that_drips_is_given_up",
    ),
    (
        "so did a server whose header never ends",
        "tests/mobilenets/fetching/test_network.py::test_a_server_whose_header_drips_is_given_up",
    ),
    (
        "images in 0 to 255 or in [-1, 1], and NaN among the pixels, gave results like any other",
        "tests/clients/test_any_input.py::test_pixels_in_another_range_are_refused",
    ),
    (
        "a command that root told to write to a device, such as /dev/null, replaced it by a file",
        f"{_WRITING}::test_what_is_neither_a_file_nor_a_folder_stays",
    ),
    (
        "`convert lite` of a model with an operation that LiteRT lacks, such as a Python function, "
        "ended in a traceback",
        "tests/convert/export/test_litert_float.py::test_operations_that_litert_lacks",
    ),
)
"""What was wrong, and the test."""
