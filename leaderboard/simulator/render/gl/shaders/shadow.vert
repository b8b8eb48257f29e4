// The sun's view of one map.
uniform float reach_m;
in vec3 position;
in int actor;

void main() {
    vec3 at = actor < 0 ? position - shadow_centre.xyz
                        : turned(actor) * position + (moved(actor) - shadow_centre.xyz);
    gl_Position = vec4(
        vec2(dot(shadow_across.xyz, at), dot(shadow_along.xyz, at)) / reach_m,
        -dot(sun_direction.xyz, at) / shadow_across.w,
        1.0
    );
}
