// RUN: not metagrad-opt %s --split-input-file 2>&1 | filecheck %s

// CHECK: metagrad-opt: 'enzyme.autodiff' op has no `fn`; it must name a function of the module
func.func @inner(%w: tensor<f32>) -> tensor<f32> {
  %g = "enzyme.autodiff"(%w, %w) {activity = [], ret_activity = []} : (tensor<f32>, tensor<f32>) -> tensor<f32>
  return %g : tensor<f32>
}

// -----

// CHECK: metagrad-opt: 'enzyme.fwddiff' op: `fn` names @loss, and there is no such function
func.func @inner(%w: tensor<f32>) -> tensor<f32> {
  %g = "enzyme.fwddiff"(%w, %w) {fn = @loss, activity = [#enzyme.activity<enzyme_dup>], ret_activity = [#enzyme.activity<enzyme_dupnoneed>]} : (tensor<f32>, tensor<f32>) -> tensor<f32>
  return %g : tensor<f32>
}

// -----

// CHECK: metagrad-opt: 'enzyme.autodiff' op: `activity` must have 2 entries, one for each of @loss's
func.func @inner(%w: tensor<f32>) -> tensor<f32> {
  %g = "enzyme.autodiff"(%w, %w, %w) {fn = @loss, activity = [#enzyme.activity<enzyme_active>], ret_activity = [#enzyme.activity<enzyme_activenoneed>]} : (tensor<f32>, tensor<f32>, tensor<f32>) -> tensor<f32>
  return %g : tensor<f32>
}
func.func private @loss(%w: tensor<f32>, %z: tensor<f32>) -> tensor<f32> {
  return %w : tensor<f32>
}

// -----

// CHECK: metagrad-opt: 'enzyme.fwddiff' op: `ret_activity` must have 1 entries, one for each of @loss's
func.func @inner(%w: tensor<f32>) -> tensor<f32> {
  %g = "enzyme.fwddiff"(%w, %w) {fn = @loss, activity = [#enzyme.activity<enzyme_dup>]} : (tensor<f32>, tensor<f32>) -> tensor<f32>
  return %g : tensor<f32>
}
func.func private @loss(%w: tensor<f32>) -> tensor<f32> {
  return %w : tensor<f32>
}

// -----

// CHECK: metagrad-opt: 'enzyme.ignore_derivatives' op must return what it is given, with the same type
func.func @loss(%w: tensor<f32>) -> tensor<f64> {
  %s = "enzyme.ignore_derivatives"(%w) : (tensor<f32>) -> tensor<f64>
  return %s : tensor<f64>
}
