// What a pixel shows, from the raster.

uniform isampler2D raster_ids;
uniform sampler2D raster_depth;  // 1 / z, 0 for the sky

layout(std430, binding = 6) readonly buffer Materials { vec4 materials[]; };
// of each: albedo, shade; emission, smooth; four of the parameters; two more, tag

struct Surface {
    int face;
    int actor;
    int material;
    float z;
    vec3 point;
    vec3 normal;  // towards the camera
};

// Direction of a pixel, of length 1 along the optical axis.
vec3 pixel_ray(vec2 pixel) {
    vec2 offset = (pixel - 0.5 * vec2(forward.w, right.w)) / eye.w;
    return forward.xyz + right.xyz * offset.x - up.xyz * offset.y;
}

// As `shading.interpolate_normal`; the point in the frame of the triangle.
vec3 interpolated_normal(int actor, uvec4 corners, vec3 point) {
    vec3 a = corner(actor, corners.x);
    vec3 u = corner(actor, corners.y) - a, v = corner(actor, corners.z) - a, w = point - a;
    float uu = dot(u, u), uv = dot(u, v), vv = dot(v, v), wu = dot(w, u), wv = dot(w, v);
    float det = uu * vv - uv * uv;
    vec3 first = corner_normal(actor, corners.x);
    if (det <= 1e-18) return first;
    float s = clamp((wu * vv - wv * uv) / det, 0.0, 1.0);
    float t = clamp((wv * uu - wu * uv) / det, 0.0, 1.0);
    vec3 n = (1.0 - s - t) * first + s * corner_normal(actor, corners.y) + t * corner_normal(actor, corners.z);
    return n * inversesqrt(dot(n, n) + 1e-12);
}

// False for the sky.
bool surface_at(ivec2 pixel, vec3 ray, out Surface s) {
    float inverse_z = texelFetch(raster_depth, pixel, 0).r;
    if (inverse_z <= 0.0) return false;
    ivec2 ids = texelFetch(raster_ids, pixel, 0).rg;
    s.face = ids.x;
    s.actor = ids.y;
    s.z = 1.0 / inverse_z;
    s.point = eye.xyz + s.z * ray;
    uvec4 corners = face_corners(s.actor, s.face);
    s.material = int(corners.w);
    if (s.actor >= 0) s.material += floatBitsToInt(actors[4 * s.actor + 3].x);
    return true;
}

void find_normal(vec3 ray, inout Surface s) {
    uvec4 corners = face_corners(s.actor, s.face);
    vec3 normal = uintBitsToFloat(face_normal(s.actor, s.face).xyz);
    bool smoothed = materials[4 * s.material + 1].w > 0.5;
    if (s.actor < 0) {
        if (smoothed) normal = interpolated_normal(-1, corners, s.point);
    } else {
        mat3 turn = turned(s.actor);
        // relative to the camera first, for small differences of large numbers lose digits
        vec3 local = (s.z * ray + (eye.xyz - moved(s.actor))) * turn;
        if (smoothed) normal = interpolated_normal(s.actor, corners, local);
        normal = turn * normal;
    }
    s.normal = dot(normal, ray) > 0.0 ? -normal : normal;
}
