"""pyarrow, which only re-embedding needs: importing this raises ImportError without it."""

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise ImportError("reembed needs pyarrow: pip install 'vlm2vec-client[reembed]'") from error

__all__ = ["pa", "pq"]
