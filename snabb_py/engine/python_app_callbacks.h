extern "Python+C" {
    uint32_t python_app_pull(struct app *app);
    uint32_t python_app_push(struct app *app);
    void python_app_tick(struct app *app);
    uint32_t python_app_retire(struct app *app);
    uint32_t python_app_held(const struct app *app);
}
