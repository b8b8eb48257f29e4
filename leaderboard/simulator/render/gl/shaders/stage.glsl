// What all programs read: the frame's constants, triangles, materials and actors.
// Numbers of an actor are its place in the tick's arrays; -1 is the town.

layout(std140, binding = 0) uniform Frame {
    vec4 eye;            // xyz; focal length in pixels
    vec4 forward;        // xyz; width in pixels
    vec4 right;          // xyz; height in pixels
    vec4 up;             // xyz; 1 where the sun casts shadows
    vec4 sun_direction;  // xyz; brightest channel of the sun
    vec4 sun;            // rgb; wetness
    vec4 sky_ambient;    // rgb; fog per metre
    vec4 ground_ambient; // rgb; where fog begins, m
    vec4 local_lights;   // x, y of the grid's corner; how many lights; night
    vec4 shadow_centre;  // xyz; texels of a map's side
    vec4 shadow_across;  // xyz: the maps' x axis; half depth of the maps, m
    vec4 shadow_along;   // xyz: their y axis; how many lit bulbs
    vec4 shadow_reach;   // half side of the four maps, m
    vec4 eye_before;     // the camera in the frame before, for flow
    vec4 forward_before;
    vec4 right_before;
    vec4 up_before;
};

layout(std430, binding = 1) readonly buffer TownVertices { float town_vertices[]; };  // position, normal
layout(std430, binding = 2) readonly buffer TownFaces { uvec4 town_faces[]; };  // corners, material; normal, instance
layout(std430, binding = 3) readonly buffer ModelVertices { float model_vertices[]; };
layout(std430, binding = 4) readonly buffer ModelFaces { uvec4 model_faces[]; };
layout(std430, binding = 5) readonly buffer Actors { vec4 actors[]; };  // three rows of the matrix; material, id

const float NEAR_M = 0.05;

vec3 corner(int actor, uint vertex) {
    uint at = 6u * vertex;
    return actor < 0 ? vec3(town_vertices[at], town_vertices[at + 1u], town_vertices[at + 2u])
                     : vec3(model_vertices[at], model_vertices[at + 1u], model_vertices[at + 2u]);
}

vec3 corner_normal(int actor, uint vertex) {
    uint at = 6u * vertex + 3u;
    return actor < 0 ? vec3(town_vertices[at], town_vertices[at + 1u], town_vertices[at + 2u])
                     : vec3(model_vertices[at], model_vertices[at + 1u], model_vertices[at + 2u]);
}

uvec4 face_corners(int actor, int face) {
    return actor < 0 ? town_faces[2 * face] : model_faces[2 * face];
}

uvec4 face_normal(int actor, int face) {
    return actor < 0 ? town_faces[2 * face + 1] : model_faces[2 * face + 1];
}

// Rotation and offset of an actor's model.
mat3 turned(int actor) {
    return transpose(mat3(actors[4 * actor].xyz, actors[4 * actor + 1].xyz, actors[4 * actor + 2].xyz));
}

vec3 moved(int actor) {
    return vec3(actors[4 * actor].w, actors[4 * actor + 1].w, actors[4 * actor + 2].w);
}
