// Camera frame; rows run downwards, so that the picture can be read as it is.
in int actor;
flat out ivec2 seen;

void main() {
    vec3 at = drawn_corner(actor, eye.xyz);
    float z = dot(forward.xyz, at);
    vec2 scale = 2.0 * eye.w / vec2(forward.w, right.w);
    // depth becomes NEAR / z, which is as fine far away as the processor's 1 / z
    gl_Position = vec4(scale * vec2(dot(right.xyz, at), -dot(up.xyz, at)), 2.0 * NEAR_M - z, z);
    seen = ivec2(gl_VertexID / 3, actor);
}
