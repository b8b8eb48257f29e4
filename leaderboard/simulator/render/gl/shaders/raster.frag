flat in ivec2 seen;
layout(location = 0) out ivec2 face_and_actor;
layout(location = 1) out float inverse_z;

void main() {
    face_and_actor = seen;
    inverse_z = gl_FragCoord.w;
}
