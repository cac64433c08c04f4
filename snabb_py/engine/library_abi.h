/* What libraries of apps are compared with: ENGINE_LAYOUTS in library.h. */

enum { ENGINE_NLAYOUTS = 24 };

extern const uint32_t engine_layouts[24];
