from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class AcmeLayoutSearchPath(SearchPathPlugin):
    """Makes the package's configurations known; imported at every start, so it imports nothing heavy."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="acme-layout", path="pkg://acme_layout.conf")
