// RUN: metagrad-opt %s --pass=schedule --steps=4 --schedule='Binomial(slots=2,rebuild=2)' | filecheck %s

// What a step prints is called beside the update that is run, in a loop of one trip or none: none
// if the step is made again from a kept gradient. The gradient that is computed for a VJP and the
// VJP itself print nothing.

module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 1 : i64, outer = 1 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [0]} {
  func.func private @inner(%w: tensor<3xf32>, %z: tensor<3xf32>, %b: tensor<2xf32>) -> tensor<3xf32> {
    return %w : tensor<3xf32>
  }
  func.func private @update(%w: tensor<3xf32>, %z: tensor<3xf32>, %b: tensor<2xf32>, %g: tensor<3xf32>) -> tensor<3xf32> {
    return %g : tensor<3xf32>
  }
  func.func private @step_vjp(%w: tensor<3xf32>, %z: tensor<3xf32>, %b: tensor<2xf32>, %g: tensor<3xf32>, %w_bar: tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>) {
    return %w_bar, %g : tensor<3xf32>, tensor<3xf32>
  }
  func.func private @outer_vjp(%w: tensor<3xf32>, %target: tensor<3xf32>) -> (tensor<f32>, tensor<3xf32>) {
    %v = stablehlo.constant dense<0.0> : tensor<f32>
    return %v, %target : tensor<f32>, tensor<3xf32>
  }
  func.func private @prints(%w: tensor<3xf32>, %z: tensor<3xf32>, %b: tensor<2xf32>) {
    stablehlo.custom_call @xla_ffi_python_cpu_callback(%w) {has_side_effect = true, mhlo.backend_config = {index = 0 : ui64}} : (tensor<3xf32>) -> ()
    return
  }
  func.func private @outer_prints(%w: tensor<3xf32>, %target: tensor<3xf32>) {
    stablehlo.custom_call @xla_ffi_python_cpu_callback(%target) {has_side_effect = true, mhlo.backend_config = {index = 1 : ui64}} : (tensor<3xf32>) -> ()
    return
  }
}

// CHECK-LABEL: func.func public @main(
// CHECK:         call @inner(
// CHECK:         stablehlo.while(%{{[^,]+}} = %{{[^,]+}}) : tensor<i32>
// CHECK:         call @prints(%{{.+}}, %arg1, %{{.+}}) : (tensor<3xf32>, tensor<3xf32>, tensor<2xf32>) -> ()
// CHECK:         call @update(
// CHECK:         call @outer_prints(%{{.+}}, %arg3)
// CHECK-NEXT:    call @outer_vjp(
// CHECK-NOT:     prints
// CHECK:         call @step_vjp(
// CHECK-NOT:     prints
// CHECK:         return
