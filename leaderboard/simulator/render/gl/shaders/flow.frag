// Optical flow, as `motion.flow_image`.
layout(std430, binding = 10) readonly buffer Before { vec4 before[]; };  // three rows of each actor's matrix then
out vec2 flow;

void main() {
    vec3 ray = pixel_ray(gl_FragCoord.xy);
    Surface s;
    vec3 at = ray;  // the sky is so far away that only turning moves it
    if (surface_at(ivec2(gl_FragCoord.xy), ray, s)) {
        at = s.z * ray + (eye.xyz - eye_before.xyz);
        if (s.actor >= 0) {
            vec4 local = vec4((s.z * ray + (eye.xyz - moved(s.actor))) * turned(s.actor), 1.0);
            int row = 3 * s.actor;
            at = vec3(dot(before[row], local), dot(before[row + 1], local), dot(before[row + 2], local));
            at -= eye_before.xyz;
        }
    }
    float ahead = dot(forward_before.xyz, at);
    if (ahead < 1e-3) {
        flow = vec2(0.0);
        return;
    }
    vec2 size = vec2(forward.w, right.w);
    vec2 now = (gl_FragCoord.xy - 0.5 * size) / eye.w;
    vec2 then = vec2(dot(right_before.xyz, at), -dot(up_before.xyz, at)) / ahead;
    flow = 2.0 * eye.w * (now - then) / size * vec2(1.0, -1.0);
}
