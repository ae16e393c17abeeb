"""pyllm inside other libraries: their models, their loops, our kernels. Each is imported only when it is used."""
