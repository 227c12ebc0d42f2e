// RUN: not metagrad-opt %s --split-input-file 2>&1 | filecheck %s

// What stands in `<{..}>` are properties. Of ops whose dialect is not loaded they cannot be listed:
// a pass that copies an op would lose them, and one that looks for the functions in use would not
// find them.

// CHECK: metagrad-opt: 'enzyme.autodiff' op has its attributes as properties, in `<{..}>`; write `{..}`, without the angle brackets
func.func @inner(%w: tensor<f32>, %one: tensor<f32>) -> tensor<f32> {
  %g = "enzyme.autodiff"(%w, %one) <{fn = @loss, activity = [#enzyme<activity<enzyme_active>>], ret_activity = [#enzyme<activity<enzyme_activenoneed>>]}> : (tensor<f32>, tensor<f32>) -> tensor<f32>
  return %g : tensor<f32>
}
func.func private @loss(%w: tensor<f32>) -> tensor<f32> {
  return %w : tensor<f32>
}

// -----

// CHECK: metagrad-opt: 'metagrad.grad' op has its attributes as properties
func.func @step(%w: tensor<f32>) -> tensor<f32> {
  %v, %g = "metagrad.grad"(%w) <{wrt = [0]}> {loss = @loss} : (tensor<f32>) -> (tensor<f32>, tensor<f32>)
  return %g : tensor<f32>
}
func.func private @loss(%w: tensor<f32>) -> tensor<f32> {
  return %w : tensor<f32>
}
