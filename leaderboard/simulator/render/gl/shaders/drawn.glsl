// The corner that a vertex of a draw call stands for, relative to `origin`.
vec3 drawn_corner(int actor, vec3 origin) {
    int face = gl_VertexID / 3;
    vec3 at = corner(actor, face_corners(actor, face)[gl_VertexID - 3 * face]);
    return actor < 0 ? at - origin : turned(actor) * at + (moved(actor) - origin);
}
