// Colour of the pixels: `shading.shade` and `images.glow` in GLSL, shadows from maps instead of rays.

uniform sampler2DArray noise;  // see `shading.noise_pyramid`
uniform sampler2D sky;
uniform sampler2D tone;
uniform sampler2DShadow shadow_maps;  // four, in the quarters of one texture
layout(std430, binding = 7) readonly buffer Lights { float lights[]; };  // twelve numbers each, see `local_lights`
layout(std430, binding = 8) readonly buffer Cells { int cells[]; };  // counts, then numbers of lights
layout(std430, binding = 9) readonly buffer Bulbs { vec4 bulbs[]; };  // column, row, z, radius; colour times strength
out vec4 bgra;

//@constants

float lattice(int x, int y, int z) {
    int hx, lx, hy, ly, hz, lz;
    imulExtended(x, 73856093, hx, lx);
    imulExtended(y, 19349663, hy, ly);
    imulExtended(z, 83492791, hz, lz);
    uint low = uint(lx ^ ly ^ lz), high = uint(hx ^ hy ^ hz);
    uint n = (low ^ ((low >> 13) | (high << 19))) * 1274126177u;
    return float((n >> 8) & 65535u) / 65535.0;
}

float texel(int column, int row, int level) {
    int mask = (NOISE_SIZE >> level) - 1;
    return texelFetch(noise, ivec3(column & mask, row & mask, level), 0).r;
}

float grain(vec2 at, int level) {
    ivec2 cell = ivec2(floor(at)) >> level;
    return texel(cell.x, cell.y, level);
}

float smooth_noise(vec2 at, int level) {
    ivec2 cell = ivec2(floor(at));
    vec2 f = at - floor(at);
    f = f * f * (3.0 - 2.0 * f);
    float low = mix(texel(cell.x, cell.y, level), texel(cell.x + 1, cell.y, level), f.x);
    float high = mix(texel(cell.x, cell.y + 1, level), texel(cell.x + 1, cell.y + 1, level), f.x);
    return mix(low, high, f.y);
}

int mip(float texels) {
    int level = 0;
    while (texels > 1.5 && level < NOISE_LEVELS - 1) {
        texels *= 0.5;
        level++;
    }
    return level;
}

vec3 sky_at(vec3 d) {
    int row = int(sqrt(max(0.0, (d.z - SKY_LOW) / (1.0 - SKY_LOW))) * float(SKY_HEIGHT - 1) + 0.5);
    float turn = d.y / (abs(d.x) + abs(d.y) + 1e-9);
    if (d.x < 0.0) turn = 2.0 - turn;
    int column = int((turn + 1.0) * (0.25 * float(SKY_WIDTH)));
    return texelFetch(sky, ivec2(clamp(column, 0, SKY_WIDTH - 1), min(row, SKY_HEIGHT - 1)), 0).rgb;
}

// Share of glass, seed of the light behind it, shade of frame and sill.
vec3 facade(vec4 p, vec2 q, float u, float z, float footprint) {
    float bay = (u - p.x) / p.z, storey = (z - p.y) / p.w;
    if (storey < 0.0 || bay < 0.0) return vec3(0.0, 0.0, 1.0);
    float i = floor(bay), j = floor(storey), a = bay - i, b = storey - j;
    float half_width = 0.5 * sqrt(q.x), tall = min(0.42, half_width * 1.05);
    float blur = clamp(footprint / (0.5 * p.z) - 0.15, 0.0, 1.0);
    float dx = half_width - abs(a - 0.5), dy = tall - abs(b - 0.52);
    float inside = 0.0, frame = 1.0;
    if (dx > 0.0 && dy > 0.0) {
        inside = 1.0;
        if ((dx * p.z < 0.07 || dy * p.w < 0.07 || abs(a - 0.5) * p.z < 0.035) && footprint < 0.10) {
            inside = 0.0;
            frame = 1.25;
        }
    } else if (dy > -0.05 && dy <= 0.0 && dx > -0.03 && b < 0.5 && footprint < 0.2) {
        frame = 1.3;
    }
    float mean = 4.0 * half_width * tall;
    return vec3(mix(inside, mean, blur), lattice(int(i), int(j), int(q.y)), frame);
}

// Share of the sun that reaches a point; 1 beyond the maps.
float sunlight(vec3 point, vec3 normal, float z) {
    vec3 from_centre = point - shadow_centre.xyz;
    vec2 flat_at = vec2(dot(shadow_across.xyz, from_centre), dot(shadow_along.xyz, from_centre));
    float aside = max(abs(flat_at.x), abs(flat_at.y));
    for (int map = 0; map < 4; map++) {
        float reach = shadow_reach[map];
        float texel_m = 2.0 * reach / shadow_centre.w;
        if (aside > reach - 4.0 * texel_m) continue;  // within `shadows.OVERLAP_M`
        // off the surface, so that it does not shade itself
        vec3 at = from_centre + normal * (0.015 + 0.0008 * z + 1.2 * texel_m);
        vec2 place = vec2(dot(shadow_across.xyz, at), dot(shadow_along.xyz, at)) / reach;
        float depth = 0.5 - 0.5 * dot(sun_direction.xyz, at) / shadow_across.w;
        vec2 quarter = vec2(map & 1, map >> 1);
        return textureLod(shadow_maps, vec3(0.5 * (quarter + 0.5 + 0.5 * place), depth), 0.0);
    }
    return 1.0;
}

// As `local_lights.light_at`.
vec3 lamp_light(vec3 point, vec3 normal) {
    ivec2 cell = ivec2(floor((point.xy - local_lights.xy) / CELL_M));
    if (any(lessThan(cell, ivec2(0))) || any(greaterThanEqual(cell, ivec2(CELLS)))) return vec3(0.0);
    int place = cell.y * CELLS + cell.x;
    vec3 sum = vec3(0.0);
    for (int k = 0; k < cells[place]; k++) {
        int n = 12 * cells[CELLS * CELLS + place * MOST_IN_CELL + k];
        vec3 d = point - vec3(lights[n], lights[n + 1], lights[n + 2]);
        float square = dot(d, d), reach = lights[n + 9];
        float ahead = dot(d, vec3(lights[n + 3], lights[n + 4], lights[n + 5]));
        bool beam = lights[n + 11] > 0.5;
        float narrow = beam ? 0.80 : 0.10;
        if (square >= reach * reach || ahead <= 0.0 || ahead * ahead < narrow * narrow * square) continue;
        float facing = -dot(normal, d);
        bool graze = beam && normal.z > 0.7;
        if (facing <= 0.0 && !graze) continue;
        float away = inversesqrt(square + 1e-6);
        facing *= away;
        if (graze) facing = max(0.22, facing);
        float part = min(1.0, (ahead * away - narrow) * (beam ? 5.5555 : 1.8182));
        float edge = 1.0 - square / (reach * reach);
        float strength = part * part * facing * edge * edge / (square + lights[n + 10]);
        sum += strength * vec3(lights[n + 6], lights[n + 7], lights[n + 8]);
    }
    return sum;
}

// Light that comes from a surface along `v`, without fog.
vec3 reflected(Surface s, vec3 v, out vec3 emission) {
    vec4 first = materials[4 * s.material];
    int shade = int(first.w);
    vec3 albedo = first.rgb, n = s.normal, p = s.point;
    emission = materials[4 * s.material + 1].rgb;
    float wetness = sun.w, night = local_lights.w, focal = eye.w, z = s.z;
    float mirror = 0.0, gain = 1.0, lit = dot(n, sun_direction.xyz);
    float shadow = 1.0;
    if (up.w > 0.5 && z < SHADOW_REACH_M && lit > 0.0) shadow = sunlight(p, n, z);
    if (shade == ASPHALT || shade == MARKING) {
        int level = mip(22.0 * z / focal * inversesqrt(max(0.02, abs(v.z))));
        gain = 1.0 + 0.26 * grain(p.xy * 22.0, level) + 0.20 * smooth_noise(p.xy * 0.16, 2);
        if (shade == MARKING) gain = 1.0 + 0.4 * (gain - 1.0);
        if (wetness > 0.0) {
            gain *= 1.0 - 0.42 * wetness;
            float pool = smooth_noise(p.xy * 0.4 + vec2(9.1, 3.7), 3);
            mirror = wetness * (0.03 + 0.25 * clamp((pool - 0.06) * 7.0, 0.0, 1.0));
        }
    } else if (shade == PAVING) {
        float footprint = z / focal / max(0.1, abs(v.z));
        gain = 1.0 + 0.22 * grain(p.xy * 6.0, mip(6.0 * footprint));
        float fine = max(0.0, 1.0 - footprint * 8.0);
        if (fine > 0.0) {
            vec2 slab = p.xy * 0.6667, cell = floor(slab);
            if (any(lessThan(slab - cell, vec2(0.03)))) gain *= 1.0 - 0.3 * fine;
            gain += (lattice(int(cell.x), int(cell.y), 3) - 0.5) * 0.08 * fine;
        }
        gain *= 1.0 - 0.25 * wetness;
    } else if (shade == GRASS) {
        int level = mip(12.0 * z / focal * inversesqrt(max(0.02, abs(v.z))));
        float broad = smooth_noise(p.xy * 0.11, 3);
        gain = 1.0 + 0.75 * grain(p.xy * 12.0, level) + 0.35 * broad;
        albedo.r *= 1.0 + 0.8 * broad;
    } else if (shade == FOLIAGE) {
        ivec3 b = ivec3(floor(p * (z < 14.0 ? 8.0 : (z < 45.0 ? 4.5 : 2.0))));
        float leaf = lattice(b.x, b.y, b.z), twig = lattice(b.y, b.z, b.x);
        gain = 0.74 + 0.5 * leaf;
        n = normalize(n + vec3(leaf - 0.5, twig - 0.5, 0.0) * 0.7);
        lit = 0.75 * max(0.0, dot(n, sun_direction.xyz)) + 0.25 * max(0.0, sun_direction.z);
    } else if (shade == FACADE) {
        float slant = max(0.08, abs(dot(n, v)));
        vec4 q = materials[4 * s.material + 3];
        vec3 window = facade(materials[4 * s.material + 2], q.xy, p.y * n.x - p.x * n.y, p.z, z / focal / slant);
        float glass = window.x;
        gain = window.z * (1.0 + 0.16 * grain(vec2(p.x + p.y, p.z) * 3.0, z < 30.0 ? 1 : 3));
        albedo = mix(albedo, vec3(0.014, 0.019, 0.026), glass);
        mirror = (0.13 + 0.16 * window.y) * glass;
        if (night > 0.02 && window.y > 0.62)
            emission += vec3(0.95, 0.66, 0.30) * (glass * night * (0.35 + 0.5 * window.y));
    } else if (shade == GLASS) {
        mirror = 0.30;
    } else if (shade == PAINT) {
        mirror = 0.05;
    }
    lit = max(0.0, lit) * mix(shade == FOLIAGE ? 0.22 : 0.0, 1.0, shadow);
    vec3 light = sun.rgb * lit + mix(ground_ambient.rgb, sky_ambient.rgb, 0.5 + 0.5 * n.z);
    if (local_lights.z > 0.5) light += lamp_light(p, n);
    vec3 colour = albedo * gain * light;
    if (mirror > 0.0) {
        float along = dot(n, v);
        vec3 m = v - 2.0 * along * n;
        float rim = along < 0.0 ? 1.0 - min(1.0, -along) : 0.0;
        float rim4 = rim * rim * rim * rim;
        float fresnel = mirror + (1.0 - mirror) * 0.75 * rim4;
        if (shade == ASPHALT || shade == MARKING) fresnel = mirror + 0.35 * wetness * rim4;
        colour = mix(colour, m.z > 0.0 ? sky_at(m) : 0.35 * ground_ambient.rgb, fresnel);
        if (lit > 0.0 && (shade == PAINT || shade == GLASS)) {
            float spot = dot(m, sun_direction.xyz);
            if (spot > 0.9) {
                spot = (spot - 0.9) * 10.0;
                colour += 2.2 * spot * spot * spot * spot * sun_direction.w;
            }
        }
    }
    return colour;
}

// The halo of lit bulbs, on bytes, one bulb after the other.
vec3 with_halos(vec3 bytes) {
    for (int k = 0; k < int(shadow_along.w); k++) {
        vec4 bulb = bulbs[2 * k];
        float d = distance(gl_FragCoord.xy, bulb.xy) / bulb.w;
        if (d >= 1.0) continue;
        float seen = texelFetch(raster_depth, ivec2(bulb.xy), 0).r;
        if (seen > 0.0 && 1.0 / seen < bulb.z - 0.35) continue;
        bytes = min(vec3(255.0), floor(bytes + (1.0 - d) * (1.0 - d) * bulbs[2 * k + 1].rgb));
    }
    return bytes;
}

void main() {
    vec3 ray = pixel_ray(gl_FragCoord.xy);
    vec3 v = normalize(ray), colour;
    Surface s;
    if (surface_at(ivec2(gl_FragCoord.xy), ray, s)) {
        find_normal(ray, s);
        vec3 emission;
        colour = reflected(s, v, emission) + emission;
        float fog = 1.0 - exp(-max(0.0, min(1024.0, floor(s.z)) - ground_ambient.w) * sky_ambient.w);
        if (emission.r + emission.g + emission.b > 1.0) fog *= 0.5;
        // fog takes the sky's colour just above the horizon, in the direction of each column
        float aside = (gl_FragCoord.x - 0.5 * forward.w) / eye.w;
        colour = mix(colour, sky_at(vec3(forward.xy + right.xy * aside, 0.03)), fog);
    } else {
        colour = sky_at(v);
        if (dot(v, sun_direction.xyz) > 0.9996) colour += 6.0 * sun.rgb;
    }
    ivec3 steps = ivec3(sqrt(max(colour, 0.0)) * (float(TONE_SIZE - 1) / sqrt(8.0)));
    steps = min(steps, ivec3(TONE_SIZE - 1));
    vec3 bytes = 255.0 * vec3(
        texelFetch(tone, ivec2(steps.r, 0), 0).r,
        texelFetch(tone, ivec2(steps.g, 0), 0).r,
        texelFetch(tone, ivec2(steps.b, 0), 0).r
    );
    bgra = vec4(with_halos(round(bytes)).bgr, 255.0) / 255.0;
}
