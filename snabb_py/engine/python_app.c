/* Steps of apps written in Python. */
#include "snabb_py/engine/engine.h"
#include "snabb_py/engine/python_app_abi.h"

/* Defined by cffi, from python_app_callbacks.h. Each takes the GIL. */
uint32_t python_app_pull(struct app *app);
uint32_t python_app_push(struct app *app);
void python_app_tick(struct app *app);
uint32_t python_app_retire(struct app *app);
uint32_t python_app_held(const struct app *app);

uint32_t python_app_pull_step(struct app *app)
{
    return python_app_pull(app);
}

/* The GIL is taken only when there is a packet. */
uint32_t python_app_push_step(struct app *app)
{
    for (uint32_t i = 0; i < app->ninput; i++)
        if (app->input[i] && link_readable(app->input[i]))
            return python_app_push(app);
    return 0;
}

void python_app_tick_step(struct app *app)
{
    python_app_tick(app);
}

uint32_t python_app_retire_step(struct app *app)
{
    return python_app_retire(app);
}

uint32_t python_app_held_step(const struct app *app)
{
    return python_app_held(app);
}
