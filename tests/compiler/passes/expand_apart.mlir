// RUN: metagrad-opt %s --pass=expand | filecheck %s

// What computes something again is not inlined: Enzyme does not see the function that JAX made, and
// the call is put back behind its run.

module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [0]} {
  // CHECK-LABEL: func.func private @step_vjp(
  // CHECK-NOT:     enzyme.autodiff
  // CHECK:         [[A:%.+]] = call @by_jax(%arg0, %arg1) : (tensor<f64>, tensor<f64>) -> tensor<f64>
  // CHECK-NOT:     metagrad.apart
  // CHECK:         return
  func.func private @step_vjp(%w: tensor<f64>, %z: tensor<f64>, %v: tensor<f64>) -> tensor<f64> {
    %a = call @by_jax(%w, %z) : (tensor<f64>, tensor<f64>) -> tensor<f64>
    %b = "enzyme.autodiff"(%a, %v) {fn = @square, activity = [#enzyme.activity<enzyme_active>], ret_activity = [#enzyme.activity<enzyme_activenoneed>]}
      : (tensor<f64>, tensor<f64>) -> tensor<f64>
    return %b : tensor<f64>
  }
  func.func private @square(%w: tensor<f64>) -> tensor<f64> {
    %s = stablehlo.multiply %w, %w : tensor<f64>
    return %s : tensor<f64>
  }
  // CHECK-LABEL: func.func private @by_jax(
  // CHECK-NEXT:    call @again(%arg0) {{.*}}no_inline
  func.func private @by_jax(%w: tensor<f64>, %z: tensor<f64>) -> tensor<f64> {
    %s = call @again(%w) {no_inline} : (tensor<f64>) -> tensor<f64>
    %p = stablehlo.multiply %s, %z : tensor<f64>
    return %p : tensor<f64>
  }
  // CHECK-LABEL: func.func private @again(
  func.func private @again(%w: tensor<f64>) -> tensor<f64> {
    %s = stablehlo.sine %w : tensor<f64>
    return %s : tensor<f64>
  }
}
