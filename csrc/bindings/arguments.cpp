// The structs and enums of api.h by name. A new argument is a line in api.h and a line here.
#include "bindings/bindings.h"
#include "bindings/fields.h"

namespace py = pybind11;

namespace fastreg {

namespace {

void bind_enums(py::module_ m) {
  py::enum_<DType>(m, "DType")
      .value("f32", DType::f32)
      .value("f64", DType::f64)
      .value("f16", DType::f16)
      .value("bf16", DType::bf16);
  py::enum_<Mode>(m, "Mode").value("linear", Mode::linear).value("nearest", Mode::nearest);
  py::enum_<Padding>(m, "Padding")
      .value("zeros", Padding::zeros)
      .value("border", Padding::border)
      .value("reflection", Padding::reflection)
      .value("symmetric", Padding::symmetric)
      .value("itk", Padding::itk);
  py::enum_<Floor>(m, "Floor").value("none", Floor::none).value("max", Floor::max).value("add", Floor::add);
  py::enum_<Scheme>(m, "Scheme").value("central", Scheme::central).value("least", Scheme::least);
}

}  // namespace

void bind_arguments(py::module_ m) {
  bind_enums(m);
  Fields<WarpArgs>(m, "WarpArgs")
      .needed<&WarpArgs::ndim>("ndim")
      .needed<&WarpArgs::batch>("batch")
      .needed<&WarpArgs::channels>("channels")
      .needed<&WarpArgs::size>("size")
      .needed<&WarpArgs::grid>("grid")
      .needed<&WarpArgs::dtype>("dtype")
      .needed<&WarpArgs::mode>("mode")
      .needed<&WarpArgs::padding>("padding")
      .needed<&WarpArgs::channels_last>("channels_last")
      .optional<&WarpArgs::normalised>("normalised")
      .optional<&WarpArgs::align_corners>("align_corners")
      .optional<&WarpArgs::vol_shared>("vol_shared")
      .needed<&WarpArgs::threads>("threads")
      .needed<&WarpArgs::vol>("vol")
      .needed<&WarpArgs::flow>("flow")
      .optional<&WarpArgs::out>("out")
      .optional<&WarpArgs::grad_out>("grad_out")
      .optional<&WarpArgs::grad_vol>("grad_vol")
      .optional<&WarpArgs::grad_flow>("grad_flow")
      .optional<&WarpArgs::deterministic>("deterministic")
      .optional<&WarpArgs::scratch>("scratch")
      .optional<&WarpArgs::stream>("stream")
      .done();
  Fields<LnccForm>(m, "LnccForm")
      .needed<&LnccForm::window>("window")
      .needed<&LnccForm::floor>("floor")
      .needed<&LnccForm::floor_eps>("floor_eps")
      .needed<&LnccForm::den_eps>("den_eps")
      .needed<&LnccForm::num_eps>("num_eps")
      .needed<&LnccForm::cross_floor>("cross_floor")
      .needed<&LnccForm::mean>("mean")
      .needed<&LnccForm::count>("count")
      .needed<&LnccForm::flat_eps>("flat_eps")
      .needed<&LnccForm::flat>("flat")
      .needed<&LnccForm::clamp>("clamp")
      .needed<&LnccForm::squared>("squared")
      .done();
  Fields<LnccArgs>(m, "LnccArgs")
      .needed<&LnccArgs::ndim>("ndim")
      .needed<&LnccArgs::batch>("batch")
      .needed<&LnccArgs::channels>("channels")
      .needed<&LnccArgs::size>("size")
      .needed<&LnccArgs::dtype>("dtype")
      .needed<&LnccArgs::form>("form")
      .needed<&LnccArgs::threads>("threads")
      .needed<&LnccArgs::a>("a")
      .needed<&LnccArgs::b>("b")
      .optional<&LnccArgs::weight>("weight")
      .optional<&LnccArgs::weight_channels>("weight_channels")
      .optional<&LnccArgs::mask>("mask")
      .optional<&LnccArgs::mask_channels>("mask_channels")
      .needed<&LnccArgs::scale>("scale")
      .optional<&LnccArgs::grad_a>("grad_a")
      .optional<&LnccArgs::grad_b>("grad_b")
      .optional<&LnccArgs::map>("map")
      .optional<&LnccArgs::workspace>("workspace")
      .optional<&LnccArgs::value>("value")
      .optional<&LnccArgs::scratch>("scratch")
      .optional<&LnccArgs::stream>("stream")
      .done();
  Fields<IntegrateArgs>(m, "IntegrateArgs")
      .needed<&IntegrateArgs::ndim>("ndim")
      .needed<&IntegrateArgs::batch>("batch")
      .needed<&IntegrateArgs::size>("size")
      .needed<&IntegrateArgs::dtype>("dtype")
      .needed<&IntegrateArgs::steps>("steps")
      .needed<&IntegrateArgs::padding>("padding")
      .needed<&IntegrateArgs::threads>("threads")
      .optional<&IntegrateArgs::velocity>("velocity")
      .optional<&IntegrateArgs::flow>("flow")
      .optional<&IntegrateArgs::saved>("saved")
      .optional<&IntegrateArgs::grad_flow>("grad_flow")
      .optional<&IntegrateArgs::grad_velocity>("grad_velocity")
      .optional<&IntegrateArgs::scratch>("scratch")
      .optional<&IntegrateArgs::stream>("stream")
      .done();
  Fields<SmoothnessArgs>(m, "SmoothnessArgs")
      .needed<&SmoothnessArgs::ndim>("ndim")
      .needed<&SmoothnessArgs::batch>("batch")
      .needed<&SmoothnessArgs::size>("size")
      .needed<&SmoothnessArgs::dtype>("dtype")
      .needed<&SmoothnessArgs::threads>("threads")
      .needed<&SmoothnessArgs::flow>("flow")
      .optional<&SmoothnessArgs::grad>("grad")
      .optional<&SmoothnessArgs::value>("value")
      .optional<&SmoothnessArgs::scratch>("scratch")
      .optional<&SmoothnessArgs::stream>("stream")
      .done();
  Fields<PenaltyArgs>(m, "PenaltyArgs")
      .needed<&PenaltyArgs::ndim>("ndim")
      .needed<&PenaltyArgs::batch>("batch")
      .needed<&PenaltyArgs::size>("size")
      .needed<&PenaltyArgs::dtype>("dtype")
      .needed<&PenaltyArgs::smoothness>("smoothness")
      .needed<&PenaltyArgs::volume>("volume")
      .needed<&PenaltyArgs::threads>("threads")
      .needed<&PenaltyArgs::velocity>("velocity")
      .optional<&PenaltyArgs::known>("known")
      .optional<&PenaltyArgs::grad>("grad")
      .optional<&PenaltyArgs::value>("value")
      .optional<&PenaltyArgs::scratch>("scratch")
      .optional<&PenaltyArgs::stream>("stream")
      .done();
  Fields<AdamArgs>(m, "AdamArgs")
      .needed<&AdamArgs::ndim>("ndim")
      .needed<&AdamArgs::batch>("batch")
      .needed<&AdamArgs::size>("size")
      .needed<&AdamArgs::dtype>("dtype")
      .needed<&AdamArgs::count>("count")
      .needed<&AdamArgs::step>("step")
      .needed<&AdamArgs::beta1>("beta1")
      .needed<&AdamArgs::beta2>("beta2")
      .needed<&AdamArgs::eps>("eps")
      .needed<&AdamArgs::passes>("passes")
      .needed<&AdamArgs::threads>("threads")
      .needed<&AdamArgs::velocity>("velocity")
      .needed<&AdamArgs::grad>("grad")
      .needed<&AdamArgs::mean>("mean")
      .needed<&AdamArgs::square>("square")
      .optional<&AdamArgs::stream>("stream")
      .done();
  Fields<DeterminantArgs>(m, "DeterminantArgs")
      .needed<&DeterminantArgs::ndim>("ndim")
      .needed<&DeterminantArgs::batch>("batch")
      .needed<&DeterminantArgs::size>("size")
      .needed<&DeterminantArgs::dtype>("dtype")
      .needed<&DeterminantArgs::scheme>("scheme")
      .needed<&DeterminantArgs::threads>("threads")
      .needed<&DeterminantArgs::flow>("flow")
      .needed<&DeterminantArgs::out>("out")
      .optional<&DeterminantArgs::stream>("stream")
      .done();
}

}  // namespace fastreg
