// Depth, labels and normals, as `images` and `motion` make them on the processor; bytes in BGRA.
uniform int kind;  // 0 depth, 1 semantic, 2 instance, 3 normals
out vec4 bgra;

const int SKY_TAG = 11;
const float FAR_M = 1000.0;

void main() {
    ivec2 pixel = ivec2(gl_FragCoord.xy);
    vec3 ray = pixel_ray(gl_FragCoord.xy);
    Surface s;
    bool hit = surface_at(pixel, ray, s);
    ivec3 bytes = ivec3(0);
    if (kind == 0) {
        // a float holds 24 bits: half a step more than all of them is one too many
        int code = hit ? min(int(s.z / FAR_M * 16777215.0 + 0.5), 16777215) : 16777215;
        bytes = ivec3(code >> 16, code >> 8, code) & 255;
    } else if (kind == 3) {
        if (hit) {
            find_normal(ray, s);
            vec3 scaled = 127.5 * s.normal * inversesqrt(dot(s.normal, s.normal) + 1e-12) + 128.0;
            bytes = min(ivec3(255), ivec3(scaled.zyx));
        }
    } else {
        int tag = SKY_TAG, instance = 0;
        if (hit) {
            tag = int(materials[4 * s.material + 3].z);
            instance = s.actor < 0 ? int(face_normal(-1, s.face).w) : floatBitsToInt(actors[4 * s.actor + 3].y);
        }
        bytes = ivec3(0, 0, tag);
        if (kind == 2) bytes.xy = ivec2(instance >> 8, instance) & 255;
    }
    bgra = vec4(bytes, 255.0) / 255.0;
}
